"""Which rows are kept, which split they belong to, and in which order they are planned.

Shapes: n rows; `labels` int (n,) class indices; `splits` int8 (n,) indices into SPLITS, NO_SPLIT
where none is given; `groups` int (n,), equal for rows that must stay together, or None.
Randomness is the raw 64-bit stream of PCG64, seeded through SeedSequence and sorted: NumPy keeps
that stream the same for ever, but not the methods of Generator (NEP 19).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.errors import SourceError

SPLITS = ("train", "val", "test")
NO_SPLIT = -1
TRAIN, VAL, TEST = range(3)

# Shares in percent. Part 0 of each is train.
_SHARES_FROM_NOTHING = (70, 15, 15)
_SHARES_FROM_TRAIN = (95, 5)
# Keep the uses of one seed apart from each other.
_STREAM_LIMIT, _STREAM_ASSIGN, _STREAM_ORDER = range(3)


def _random_order(size: int, seed: int, *stream: int) -> np.ndarray:
    """Permute range(size); int64 (size,), a pure function of the arguments."""
    bits = np.random.PCG64(np.random.SeedSequence([seed, *stream]))
    return np.argsort(bits.random_raw(size), kind="stable")


def apportion(
    weights: np.ndarray,
    total: int,
    minimums: np.ndarray,
    tie_ranks: np.ndarray | None = None,
) -> np.ndarray:
    """Share out `total` in proportion to `weights`: largest remainder, then the minimums.

    All in integers, so that no platform rounds differently. A part under its minimum takes from
    the part that is most over its exact share and can spare one.

    Args:
        weights: int (k,), at least 0, not all 0.
        total: how many to share out.
        minimums: int (k,), 0 or more. Where they add up to more than `total`, the `total` parts
            with the largest weights get one each.
        tie_ranks: int (k,), who goes first among equal remainders; by position if None.

    Returns:
        int64 (k,), adds up to `total`; at most `weights` where `total` and the minimums are.
    """
    weights = np.asarray(weights, dtype=np.int64)
    ranks = np.arange(len(weights)) if tie_ranks is None else tie_ranks
    if minimums.sum() > total:
        counts = np.zeros(len(weights), dtype=np.int64)
        counts[np.lexsort((ranks, -weights))[:total]] = 1
        return counts
    whole = weights.sum()
    counts, remainders = np.divmod(weights * total, whole)
    counts[np.lexsort((ranks, -remainders))[: total - counts.sum()]] += 1
    for part in np.flatnonzero(counts < minimums):
        while counts[part] < minimums[part]:
            surplus = counts * whole - weights * total
            can_spare = counts > minimums
            counts[np.argmax(np.where(can_spare, surplus, np.iinfo(np.int64).min))] -= 1
            counts[part] += 1
    return counts


def limit_stratified(labels: np.ndarray, splits: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Choose `limit` rows in the proportions of the whole: by split, and in each split by class.

    Every split keeps at least one row, train one of each of its classes, and the other splits one
    of each class, as far as `limit` allows; where it does not, the largest classes come first.
    A smaller limit draws from the front of the same random order as a larger one.

    Args:
        labels: int (n,).
        splits: int8 (n,); rows without a split count as one split.
        limit: how many rows to keep in all; 0 keeps all.
        seed: 0 or more.

    Returns:
        int64 (min(limit, n),), row indices in rising order.
    """
    num_rows = len(labels)
    if limit <= 0 or limit >= num_rows:
        return np.arange(num_rows)
    order = _random_order(num_rows, seed, _STREAM_LIMIT)
    codes, sizes = np.unique(splits, return_counts=True)
    minimums = np.ones(len(codes), dtype=np.int64)
    if TRAIN in codes:
        num_train_classes = len(np.unique(labels[splits == TRAIN]))
        if num_train_classes + len(codes) - 1 <= limit:
            minimums[codes == TRAIN] = num_train_classes
    kept = []
    for code, quota in zip(codes, apportion(sizes, limit, minimums), strict=True):
        rows = order[splits[order] == code]
        names, class_of, class_sizes = np.unique(
            labels[rows], return_inverse=True, return_counts=True
        )
        class_quotas = apportion(class_sizes, int(quota), np.ones(len(names), dtype=np.int64))
        by_class = np.argsort(class_of, kind="stable")
        starts = np.repeat(np.cumsum(class_sizes) - class_sizes, class_sizes)
        rank_in_class = np.arange(len(rows)) - starts
        kept.append(rows[by_class[rank_in_class < np.repeat(class_quotas, class_sizes)]])
    return np.sort(np.concatenate(kept))


def needs_hashes(splits: np.ndarray) -> bool:
    """Tell whether `assign_splits` has to know which rows are the same bytes: no split is given."""
    return bool(np.all(splits == NO_SPLIT))


def assign_splits(
    labels: np.ndarray, splits: np.ndarray, groups: np.ndarray | None, seed: int
) -> tuple[np.ndarray, str]:
    """Give every row a split, and say in words what was done.

    - train, val and test given: as found.
    - train and val: val becomes test, and a stratified 5% of train becomes val.
    - train and test: a stratified 5% of train becomes val.
    - none: 70% train, 15% val, 15% test, stratified.

    Each class is divided for itself, by largest remainder, so it is never a whole image away from
    its exact share but for this: of 1 image train has it; of 2, train and the other part (test
    where there are three parts) have one each; of 3 or more every part has at least one. What val
    and test claim equally goes to test in classes of even index and to val in the others; what
    train and val claim equally stays in train.

    Rows of one group stay together and count for the class of their first row; big groups are
    placed first, so single rows even out what they leave. Every class has an image in train,
    even where its only group has to go there whole.

    Args:
        labels: int (n,).
        splits: int8 (n,), given for all rows or for none.
        groups: int (n,) or None. Only rows that are divided here are held together.
        seed: 0 or more.

    Returns:
        int8 (n,) of indices into SPLITS, and a sentence for the log.

    Raises:
        SourceError: some rows have a split and others none, or the splits given are not enough.
    """
    counts = np.bincount(np.asarray(splits, dtype=np.int64) + 1, minlength=len(SPLITS) + 1)
    num_without, given = counts[0], frozenset(np.flatnonzero(counts[1:]).tolist())
    if num_without and given:
        raise SourceError(
            f"{num_without:,} of {len(splits):,} images have no split; "
            "give every image a split, or none"
        )
    if not given:
        result = _divide(labels, groups, _SHARES_FROM_NOTHING, seed).astype(np.int8)
        return result, "no splits given: made 70/15/15 by class, seeded: " + _tally(result)
    if given == {TRAIN, VAL, TEST}:
        return splits.astype(np.int8), "splits as given: " + _tally(splits)
    if given == {TRAIN, VAL}:
        result = np.where(splits == VAL, TEST, splits).astype(np.int8)
        note = "no test split given: the val images become test, and 5% of train, by class, val: "
    elif given == {TRAIN, TEST}:
        result = splits.astype(np.int8)
        note = "no val split given: 5% of train, by class, becomes val: "
    else:
        raise SourceError(
            f"the only splits given are {_tally(splits)}; expected train beside val or test, "
            "or no splits at all: add what is missing, or move the class folders up one level"
        )
    rows = np.flatnonzero(result == TRAIN)
    group_rows = None if groups is None else groups[rows]
    result[rows] = _divide(labels[rows], group_rows, _SHARES_FROM_TRAIN, seed)
    return result, note + _tally(result)


def duplicates_across_splits(
    sha256s: np.ndarray, splits: np.ndarray
) -> tuple[int, tuple[int, int] | None]:
    """Count the distinct contents that lie in more than one given split.

    Args:
        sha256s: (n,) digests, as text or as bytes.
        splits: int8 (n,); rows without a split are left out.

    Returns:
        How many contents, and two rows of the first one, in two splits (None when there is none).
    """
    rows = np.flatnonzero(splits != NO_SPLIT)
    if not len(rows):
        return 0, None
    _, content = np.unique(sha256s[rows], return_inverse=True)
    order = np.lexsort((rows, splits[rows], content))
    starts = np.flatnonzero(np.diff(content[order], prepend=-1))
    first = rows[order[starts]]
    last = rows[order[np.append(starts[1:], len(order)) - 1]]
    across = np.flatnonzero(splits[first] != splits[last])
    if not len(across):
        return 0, None
    example = across[np.argmin(first[across])]
    return len(across), (int(first[example]), int(last[example]))


def plan_order(splits: np.ndarray, seed: int) -> np.ndarray:
    """Order the rows for the plan: train, val, test, each shuffled so that shards mix the classes.

    The order within one split does not depend on the rows of another.

    Args:
        splits: int8 (n,), given for every row.
        seed: 0 or more.

    Returns:
        int64 (n,), a permutation of the row indices.

    Raises:
        SourceError: a row has no split.
    """
    if np.any(splits == NO_SPLIT):
        raise SourceError("a row has no split; assign splits before planning their order")
    parts = []
    for code in range(len(SPLITS)):
        rows = np.flatnonzero(splits == code)
        parts.append(rows[_random_order(len(rows), seed, _STREAM_ORDER, code)])
    return np.concatenate(parts)


def _tally(splits: np.ndarray) -> str:
    counts = [(name, int(np.sum(splits == code))) for code, name in enumerate(SPLITS)]
    return ", ".join(f"{name} {count:,}" for name, count in counts if count)


def _divide(
    labels: np.ndarray, groups: np.ndarray | None, shares: Sequence[int], seed: int
) -> np.ndarray:
    """Divide rows among parts, class by class; int64 (n,) of part indices, part 0 is train."""
    num_rows = len(labels)
    if groups is None:
        units, owners = np.arange(num_rows), labels
    else:
        _, first, units = np.unique(groups, return_index=True, return_inverse=True)
        owners = labels[first][units]
    sizes = np.bincount(units)
    order = _random_order(num_rows, seed, _STREAM_ASSIGN)
    order = order[np.argsort(owners[order], kind="stable")]
    parts = np.zeros(num_rows, dtype=np.int64)
    for rows in np.split(order, np.flatnonzero(np.diff(owners[order])) + 1):
        if len(rows):
            parts[rows] = _divide_class(units[rows], sizes, shares, int(owners[rows[0]]))
    # A class whose every group was placed elsewhere gets its first one back; see assign_splits.
    bare, first_rows = np.unique(labels, return_index=True)
    is_bare = ~np.isin(bare, labels[parts == TRAIN])
    parts[np.isin(units, units[first_rows[is_bare]])] = TRAIN
    return parts


def _divide_class(
    units: np.ndarray, sizes: np.ndarray, shares: Sequence[int], label: int
) -> np.ndarray:
    """Divide the rows of one class, given by the unit of each, in random order."""
    left = _targets(len(units), shares, label)
    parts = np.zeros(len(units), dtype=np.int64)
    is_single = sizes[units] == 1
    grouped, first, member = np.unique(units[~is_single], return_index=True, return_inverse=True)
    part_of = np.zeros(len(grouped), dtype=np.int64)
    for at in np.lexsort((first, -sizes[grouped])):
        size = sizes[grouped[at]]
        fits = left >= size
        room = np.where(fits | ~fits.any(), left, np.iinfo(np.int64).min)
        part_of[at] = len(left) - 1 - int(np.argmax(room[::-1]))
        left[part_of[at]] -= size
    parts[~is_single] = part_of[member]
    num_single = int(is_single.sum())
    if num_single:
        left = np.maximum(left, 0)
        if left.sum() != num_single:
            left = apportion(left, num_single, np.zeros_like(left))
        parts[is_single] = np.repeat(np.arange(len(left)), left)
    return parts


def _targets(num_rows: int, shares: Sequence[int], label: int) -> np.ndarray:
    """Tell how many rows of one class each part should have; the rounding of assign_splits."""
    num_parts = len(shares)
    by_need = np.array([0, *range(num_parts - 1, 0, -1)])
    minimums = np.zeros(num_parts, dtype=np.int64)
    minimums[by_need[:num_rows]] = 1
    ranks = np.argsort(by_need) if label % 2 == 0 else np.arange(num_parts)
    return apportion(np.array(shares), num_rows, minimums, ranks)
