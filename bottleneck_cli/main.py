"""The `bottleneck` command: finds the subcommand, turns errors into one line and an exit status."""

from __future__ import annotations

import importlib
import signal
import threading
import warnings
from importlib import metadata
from typing import Any

import click

from pipelines.errors import ConfigError, PipelineError, SavedInterrupt

# Name -> short help. A command's module is imported only when that command runs or shows its help.
_COMMANDS = {
    "init": "Make a workspace for a set of labelled images.",
    "compress": "Make ten versions of every image: JPEG, or under other changes.",
    "nodes": "List the pivotal nodes of a network.",
    "extract": "Run the frozen network once and keep what it gives at a node.",
    "train-tail": "Train the layers behind a node from its cache.",
    "eval": "Judge a trained run against the default network.",
    "report": "Write a page about judged runs, for people to read.",
    "explain": "Show why a judged image was gained or lost.",
    "predict": "Say which classes a trained run takes images for.",
    "export": "Write a trained run as files that are used without this program.",
    "status": "Show what is done, who is at work, and what is left.",
    "runs": "List the runs: what they are, how far and how good.",
    "stats": "Show how sparse the caches are and what they take on disk.",
    "verify": "Check every file of the variants and the caches.",
    "demo": "Run all stages on real photographs that a package ships.",
}
_KEEPING = ("compress", "extract", "train-tail", "eval", "demo")  # what they have made so far


class LazyGroup(click.Group):
    """A group that imports a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they are used."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return its command."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"bottleneck_cli.{cmd_name.replace('-', '_')}")
        return module.command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a misspelt one is answered with the list."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            names = ", ".join(_COMMANDS)
            raise click.UsageError(f"{error.message} Commands: {names}.", ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what a user can mend becomes one line on stderr."""
        # Corrupt metadata of one photograph among a million; what matters is quarantined.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            _end_well_on_sigterm()
            return super().invoke(ctx)
        except PipelineError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2 if isinstance(error, ConfigError) and error.is_usage else 1)
        except SavedInterrupt as error:
            click.echo(str(error), err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            goes_on = "; what is whole is kept, the same command goes on from there"
            click.echo(
                f"interrupted{goes_on if ctx.invoked_subcommand in _KEEPING else ''}", err=True
            )
            ctx.exit(1)


def _end_well_on_sigterm() -> None:
    """Take a scheduler's request to end like Ctrl-C: locks are let go, workers end."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(metadata.version("bottleneck-pipeline"), prog_name="bottleneck")
def main() -> None:
    """Extract a frozen network's bottlenecks once, train its tail many times.

    \b
    In a workspace (a folder with a bottleneck.toml) the stages run bare:
      bottleneck init my-set --images ./photos && cd my-set
      bottleneck compress
      bottleneck extract --node mixed_9
      bottleneck train-tail
      bottleneck eval

    Every stage goes on where a killed one stopped. `bottleneck COMMAND --help` shows an example.
    """
