"""The library: four stages and the parts they are made of; knows nothing of the command line."""
