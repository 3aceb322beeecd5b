"""Tables and replays: what was recorded comes back, and searches find what theory says they do."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import study_samples
from made_tables import RECIPE, SPACE, additive, outcomes, pool, records, shuffled, table
from study_files import run

from miras_search.benchmark import replay as replays
from miras_search.benchmark import verdict
from miras_search.benchmark.replay import Outcomes, replay
from miras_search.benchmark.table import METADATA, Table
from miras_search.errors import UserError
from miras_search.folder import StudyFolder
from miras_search.pruning import PRUNERS
from miras_search.recipe import Recipe
from miras_search.space import Space
from miras_search.variant import Variant

LEARNING = ("local", "evolution")


def value(point: int, seed: int) -> float | None:
    """A score that no two trials share; some fail."""
    return None if (point + seed) % 50 == 0 else (point * 37 % 320) / 400 + seed / 1000


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = table(value, seeds=3, lr=[1e-3, 3e-3])
    made.write(tmp_path / "deep" / "made.parquet")
    assert (tmp_path / "deep" / "made.parquet").stat().st_size < 2_000_000
    back = Table.load(tmp_path / "deep" / "made.parquet")
    assert back.space == made.space
    assert back.recipe == made.recipe
    assert back.versions == {"torch": ["2.13.0"]}
    assert back.trials.equals(made.trials)
    assert back.trials.num_rows == 640 * 3
    row = back.trials.to_pylist()[7]
    point = pool(lr=[1e-3, 3e-3]).candidates[7]
    assert Variant.from_dict(json.loads(row["variant"])) == point.variant
    assert (row["digest"], row["lr"], row["seed"]) == (*point.key, 0)
    assert row["memory"] == str(point.variant.memory)
    assert row["score"] == value(7, 0)
    assert row["curve_step"] == [20, 40, 60, 80, 100]
    assert row["curve_score"] == [0.1 * i for i in range(1, 6)]


def study(path: Path, **recipe: object) -> StudyFolder:
    how = study_samples.recipe(**recipe)
    trials = study_samples.study(how)
    own = [t.model_copy(update={"seed": how.seed}) for t in trials]
    return study_samples.folder(path, how, own)


def test_studies_that_differ_by_their_seed_make_one_table(tmp_path: Path) -> None:
    one, two = study(tmp_path / "one"), study(tmp_path / "two", seed=1, workers=2)
    made = Table.of([one, two])
    assert made.trials.num_rows == len(one.records()) + len(two.records())
    assert set(made.trials["seed"].to_pylist()) == {0, 1}
    assert made.recipe.seed == 0
    assert made.recipe.out is None
    copy = study(tmp_path / "copy")
    with pytest.raises(UserError, match="was recorded twice with lr") as caught:
        Table.of([one, copy])
    assert str(caught.value).startswith(f"{one.record_file(0)} and {copy.record_file(0)}: variant")
    with pytest.raises(UserError, match=r"longer: expected the recipe of .*one, but for the seed"):
        Table.of([one, study(tmp_path / "longer", steps=200)])
    other = study(tmp_path / "other")
    other.space_file.write_text(other.space_file.read_text().replace("chunk: 16", "chunk: 8"))
    with pytest.raises(UserError, match="other: expected the space of"):
        Table.of([one, StudyFolder(other.path)])
    empty = study_samples.folder(tmp_path / "empty", study_samples.recipe(), [])
    with pytest.raises(UserError, match="no trial has finished"):
        Table.of([empty])


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    from pyarrow import parquet

    with pytest.raises(UserError, match=r"gone.parquet: expected a table of trials: no such file"):
        Table.load(tmp_path / "gone.parquet")
    with pytest.raises(UserError, match="nothing: neither a file nor a shipped table"):
        Table.load("nothing")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(UserError, match=r"text.parquet: expected a table of trials"):
        Table.load(tmp_path / "text.parquet")
    made = table(value, seeds=1)
    parquet.write_table(made.trials, tmp_path / "bare.parquet")
    with pytest.raises(UserError, match=r"bare.parquet: expected a table of trials"):
        Table.load(tmp_path / "bare.parquet")
    told = made.trials.replace_schema_metadata({METADATA: json.dumps({"format": 9})})
    parquet.write_table(told, tmp_path / "later.parquet")
    with pytest.raises(UserError, match="format: expected 1, got 9"):
        Table.load(tmp_path / "later.parquet")


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"format": 1}, "space: this key is required"),
        ([1], r"expected keys and values, got \[1\]"),
        ({"format": 1, "space": 3}, "space: expected keys and values, got 3"),
    ],
)
def test_metadata_that_is_damaged_is_told(tmp_path: Path, about: object, told: str) -> None:
    from pyarrow import parquet

    trials = table(value, seeds=1).trials
    file = tmp_path / "made.parquet"
    parquet.write_table(trials.replace_schema_metadata({METADATA: json.dumps(about)}), file)
    with pytest.raises(UserError, match=f"made.parquet: expected a table of trials: {told}"):
        Table.load(file)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"lr": None}, "lr: expected a number, got None"),
        ({"lr": 0.0}, "lr: expected more than 0.0, got 0.0"),
        ({"seconds": math.nan}, "seconds: expected a finite number, got nan"),
        ({"score": math.inf}, "score: expected a finite number, got inf"),
        ({"variant": "matrix"}, "variant: expected JSON, got 'matrix'"),
        ({"variant": None}, "variant: expected JSON, got None"),
        ({"curve_step": None}, "curve_step: expected a list, got None"),
        ({"curve_step": [20]}, ": expected a curve of as many rising steps as scores"),
        ({"curve_step": [20, 40, 60, 60, 80]}, ": expected a curve of as many rising steps"),
    ],
)
def test_rows_that_are_damaged_are_told(tmp_path: Path, damage: dict, told: str) -> None:
    import pyarrow

    made = table(value, seeds=1)
    rows = made.trials.to_pylist()
    rows[3] |= damage
    trials = pyarrow.Table.from_pylist(rows, schema=made.trials.schema)
    replace(made, trials=trials).write(tmp_path / "made.parquet")
    with pytest.raises(UserError) as found:
        Table.load(tmp_path / "made.parquet")
    assert len(found.value.problems) == 1
    assert "made.parquet: expected a table of trials: trials[3]" in str(found.value)
    assert told in str(found.value)


def test_tables_that_cannot_be_replayed_are_told(tmp_path: Path) -> None:
    made = table(value, seeds=1)
    with pytest.raises(UserError, match="no trial completed"):
        Outcomes.of(replace(made, trials=made.trials.slice(0, 0)))
    column = made.trials.schema.get_field_index("variant")
    strange = made.trials.set_column(column, "variant", [['{"memory": "matrx"}'] * 320])
    with pytest.raises(UserError, match=r"table of space: memory: .*did you mean 'matrix'"):
        Outcomes.of(replace(made, trials=strange))
    fewer = made.trials.drop_columns(["seconds"]).replace_schema_metadata(None)
    replace(made, trials=fewer).write(tmp_path / "fewer.parquet")
    with pytest.raises(UserError, match=r"fewer.parquet: expected a table of trials: "):
        Table.load(tmp_path / "fewer.parquet")


@pytest.mark.parametrize(("task", "sign"), [("mqar", 1), ("bytes", -1)])
def test_points_are_judged_by_their_means_over_seeds(task: str, sign: int) -> None:
    """Worth and rank against their definitions, one point at a time."""
    how = Recipe.from_dict(RECIPE | {"task": {"kind": task}, "lr": [1e-3, 3e-3]})
    space = Space.from_dict(SPACE)
    made = pool(lr=[1e-3, 3e-3])
    found = Outcomes.of(Table.of_records(space, how, records(made, how, value, 3)))
    scored = [value(p, s) for p in range(640) for s in range(3)]
    worst = min(sign * score for score in scored if score is not None)
    means = [
        sum(worst if value(p, s) is None else sign * value(p, s) for s in range(3)) / 3
        for p in range(640)
    ]
    assert found.worth == pytest.approx(means)
    assert found.variants == 320
    best: dict[str, float] = {}
    for candidate, mean in zip(found.pool.candidates, found.worth, strict=True):
        best[candidate.digest] = max(mean, best.get(candidate.digest, -math.inf))
    expected = [sum(other > own for other in best.values()) for own in found.worth]
    assert found.rank.tolist() == expected
    assert (found.steps == 100).all()


def test_a_table_of_a_space_without_an_end_is_refused() -> None:
    how = Recipe.from_dict(RECIPE)
    made = Table.of_records(Space.from_dict(SPACE), how, records(pool(), how, value, 1))
    endless = Recipe.from_dict(RECIPE | {"lr": {"log_uniform": [1e-3, 1e-2]}})
    with pytest.raises(UserError, match="needs a finite space: lr is a continuous range"):
        Outcomes.of(Table(made.space, endless, made.trials, {}))


def test_a_part_of_a_space_can_be_replayed() -> None:
    how = Recipe.from_dict(RECIPE)
    some = [r for r in records(pool(), how, value, 2) if r.number % 3 == 0]
    found = Outcomes.of(Table.of_records(Space.from_dict(SPACE), how, some))
    assert len(found.pool) == 107
    assert len(replay(found, "local", 2, 107, 0).incumbent[0]) == 107


def test_a_replay_looks_up_one_seed_of_each_point_and_repeats_exactly() -> None:
    found = outcomes(pool(), additive(pool(), np.random.default_rng(0)))
    rows = found.lookups(np.random.default_rng(0))
    assert (rows // 3 == np.arange(320)).all()
    assert set(rows % 3) == {0, 1, 2}
    one, two, other = (replay(found, "evolution", 3, 40, seed) for seed in (0, 0, 1))
    assert (one.incumbent == two.incumbent).all()
    assert (one.incumbent != other.incumbent).any()
    assert one.seconds.tolist() == [[*range(1, 41)]] * 3
    assert (one.steps == 100 * one.seconds).all()


def test_the_incumbent_is_the_best_that_was_seen() -> None:
    rng = np.random.default_rng(0)
    score = rng.integers(0, 20, size=(50, 30)).astype(float)
    score[rng.random(score.shape) < 0.2] = -math.inf
    leaders = replays._leaders(score)
    for row, own in zip(score, leaders, strict=True):
        for t in range(30):
            assert own[t] == max(range(t + 1), key=lambda i: (row[i], -i))


def test_random_search_finds_the_best_as_often_as_drawing_without_replacement() -> None:
    """Without noise, k draws of 320 hold one of the 3 best with a hypergeometric probability.

    4.9 standard errors at each of 4 places: a false alarm has odds below 1 in 10^5.
    """
    worth = np.random.default_rng(0).permutation(320.0 * np.arange(1, 321))[:, None]
    found = outcomes(pool(), worth)
    searches = 400
    line = verdict.curve(found, replay(found, "random", searches, 320, 0), "trials")
    for k in (16, 80, 160, 240):
        exact = 1 - math.comb(317, k) / math.comb(320, k)
        error = math.sqrt(exact * (1 - exact) / searches)
        assert abs(line.tried[k - 1] - exact) < 4.9 * error
    assert (line.declared == line.tried).all()
    assert line.tried[-1] == 1
    assert line.regret[-1] == 0
    needed = next(k for k in range(1, 321) if line.tried[k - 1] >= 0.5)
    assert line.needed("tried", 0.5) == needed
    assert line.needed("declared", 1.1) is None


@pytest.mark.parametrize("name", LEARNING)
def test_nobody_finds_a_needle_sooner(name: str) -> None:
    """Where all else is equal, k trials have found it with probability k / 320, whoever searches.

    Its place is random in each of 600 searches; 4.9 standard errors at 3 places: below 1 in 10^5.
    """
    found, rng, searches = outcomes(pool(), np.eye(320)[:, :1]), np.random.default_rng(1), 600
    hits = np.zeros(80)
    for seed in range(searches):
        made = shuffled(found, rng)
        line = verdict.curve(made, replay(made, name, 1, 80, seed), "trials")
        hits += line.rank == 0
    for k in (10, 40, 80):
        error = math.sqrt(k / 320 * (1 - k / 320) / searches)
        assert abs(hits[k - 1] / searches - k / 320) < 4.9 * error


@pytest.mark.parametrize("name", LEARNING)
def test_noise_cannot_be_learned(name: str) -> None:
    """Tables of noise alone: against random search it is better as often as it is worse.

    One search by each on every one of 500 tables; the better one has odds of 1/2, and 4.5 standard
    deviations of a binomial are a false alarm in 1 of 10^5.
    """
    made, rng, tables = pool(), np.random.default_rng(2), 500
    wins = losses = 0
    for seed in range(tables):
        found = outcomes(made, rng.normal(size=(320, 3)))
        ours, random = (replay(found, n, 1, 40, seed).incumbent[0, -1] for n in (name, "random"))
        wins += found.worth[ours] > found.worth[random]
        losses += found.worth[ours] < found.worth[random]
    assert abs(wins - losses) < 4.5 * math.sqrt(wins + losses)


@pytest.mark.parametrize("name", LEARNING)
def test_structure_is_learned(name: str) -> None:
    """Effects of axes: after a fifth of the trials more searches have one of the 3 best variants.

    On each of 5 tables; by 5 standard errors of a difference of shares in 100 searches.
    """
    for seed in range(5):
        found = outcomes(pool(), additive(pool(), np.random.default_rng(seed), noise=0.1))
        ours, random = (
            verdict.curve(found, replay(found, n, 100, 64, 0), "trials").tried[-1]
            for n in (name, "random")
        )
        error = math.sqrt((ours * (1 - ours) + random * (1 - random)) / 100)
        assert ours - random > 5 * error


def test_improvement_is_the_share_of_pairs() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 5, 40) + 0.5, rng.integers(0, 6, 30) + 0.5
    share, low, high = verdict.improvement(ours, theirs)
    pairs = [(a > b) + (a == b) / 2 for a in ours for b in theirs]
    assert share == pytest.approx(np.mean(pairs))
    assert low < share < high
    # A bootstrap of the searches themselves; quantiles of 2000 draws are within 0.03.
    means = []
    for _ in range(2000):
        a, b = rng.choice(ours, 40)[:, None], rng.choice(theirs, 30)
        means.append(((a > b) + (a == b) / 2).mean())
    assert [low, high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.03)


def test_the_interval_covers_the_truth() -> None:
    """Two of the same kind are equal: 95 % of intervals hold one half.

    Of 300, more than 263 but not all: each has binomial odds of a false alarm below 1 in 10^6.
    """
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        _, low, high = verdict.improvement(rng.normal(size=60), rng.normal(size=60))
        held += low <= 0.5 <= high
    assert 263 < held < 300


def test_costs_in_seconds_count_what_has_finished() -> None:
    """Against a count by hand, one search at a time."""
    made = pool()
    rng = np.random.default_rng(5)
    found = outcomes(made, additive(made, rng))
    seconds = rng.uniform(1, 9, size=found.seconds.shape)
    found = Outcomes(**{**vars(found), "seconds": seconds})
    own = replay(found, "random", 20, 50, 0)
    line = verdict.curve(found, own, "seconds")
    assert line.cost[-1] == own.seconds[:, -1].max() > own.seconds[:, -1].min()
    for place in (0, 1, 40, 300, 390, 399):
        regrets = []
        for spent, held in zip(own.seconds, own.incumbent, strict=True):
            done = [p for s, p in zip(spent, held, strict=True) if s <= line.cost[place]]
            worth = found.worth[done[-1]] if done else found.worth.min()
            regrets.append(found.worth.max() - worth)
        assert line.regret[place] == pytest.approx(np.mean(regrets))


def test_a_trial_that_was_stopped_stands_in_no_table() -> None:
    """Its score is not known: it would be replayed as the worst."""
    made, how = pool(), Recipe.from_dict(RECIPE)
    found = records(made, how, lambda i, seed: 0.5, 1)
    found[3] = found[3].model_copy(update={"score": None, "state": "pruned"})
    with pytest.raises(UserError, match=f"trial {found[3].number} was stopped early: expected"):
        Table.of_records(Space.from_dict(SPACE), how, found)


@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_pruner_spares_what_early_scores_foretell(pruner: str) -> None:
    """Where no score lies, stopping trials changes what is spent and not what is found."""
    made = pool()
    found = outcomes(made, additive(made, np.random.default_rng(2)))
    whole, spared = (replay(found, f"random{p}", 10, 60, 0) for p in ("", f"/{pruner}"))
    assert (whole.tried == spared.tried).all()
    assert (whole.incumbent == spared.incumbent).all()
    assert whole.ended.all()
    stopped = ~spared.ended
    assert not stopped[:, :10].any()
    assert stopped.sum(1).min() > 10
    own = np.diff(spared.steps, axis=1, prepend=0)
    assert (own[~stopped] == 100).all()
    assert set(own[stopped].tolist()) <= {20, 40, 60, 80}
    assert spared.seconds == pytest.approx(own.cumsum(1) / 100)
    line = verdict.curve(found, spared, "trials")
    assert line.cost.tolist() == [*range(1, math.ceil(spared.steps.max() / 100) + 1)]
    for k in (1, 5, 20, len(line.cost)):
        ends = [
            [p for p, s in zip(*one, strict=True) if s <= 100 * k]
            for one in zip(spared.incumbent, spared.steps, strict=True)
        ]
        assert line.rank[k - 1] == np.mean([found.rank[held[-1]] for held in ends])


def test_finals_are_run_on_the_seeds_that_the_search_has_not_met() -> None:
    """Against a loop over dictionaries, on scores that depend on the seed more than on the point;
    with other seeds unheard of, or few searches, there are no finals."""
    scores = additive(pool(), np.random.default_rng(0), noise=4.0)
    scores[5, 1] = -math.inf
    found = outcomes(pool(), scores)
    replays = replay(found, "random", 50, 40, 0)
    trials = round(verdict.EARLY * len(found.pool))
    finite = np.maximum(scores, scores[np.isfinite(scores)].min())
    expected = []
    for tried, rows in zip(replays.tried[:, :trials], replays.rows[:, :trials], strict=True):
        looked = {int(p): float(scores.ravel()[row]) for p, row in zip(tried, rows, strict=True)}
        met = {int(p): int(row) % 3 for p, row in zip(tried, rows, strict=True)}
        three = sorted(looked, key=lambda p: -looked[p])[:3]
        means = {p: np.mean([finite[p, s] for s in range(3) if s != met[p]]) for p in three}
        expected.append(max(means, key=lambda p: means[p]))
    assert (replays.rows // 3 == replays.tried).all()
    winners = verdict.crowned(found, replays, 3)
    assert winners is not None
    assert winners.tolist() == expected
    one = verdict.crowned(found, replays, 1)
    assert one is not None
    assert (one == verdict.declared(found, replays)).all()
    assert (winners != one).mean() > 0.3
    alone = outcomes(pool(), scores[:, :1])
    assert verdict.crowned(alone, replay(alone, "random", 2, 40, 0), 3) is None


def test_the_command_line_replays_a_table(tmp_path: Path) -> None:
    table(value, seeds=2).write(tmp_path / "made.parquet")
    file = str(tmp_path / "made.parquet")
    how = ("methods=[local, tpe]", "replays=3", "budget=0.1", f"out={tmp_path / 'out'}")
    done = run("simulate", file, *how)
    assert done.returncode == 0, done.stderr
    assert "640 trials of 320 points, 320 variants; the best 3 count" in done.stdout
    for name in ("random", "local", "tpe"):
        assert name in done.stdout
    lines = (tmp_path / "out" / "curves.csv").read_text().splitlines()
    assert lines[0] == "method,unit,cost,tried,declared,regret,rank"
    assert len([line for line in lines if line.startswith("local,trials,")]) == 32
    drawn = (tmp_path / "out" / "curves.svg").read_bytes()
    assert b"<svg" in drawn
    assert run("simulate", file, *how).stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    assert (tmp_path / "out" / "curves.csv").read_text().splitlines() == lines
    assert (tmp_path / "out" / "curves.svg").read_bytes() == drawn
    for wrong, told in (
        ("methods=[best]", "unknown sampler 'best'"),
        ("replays=1", "replays"),
        ("methods=[gp/half]", "unknown pruner 'half'"),
        ("method=tpe", "did you mean 'methods'?"),
    ):
        refused = run("simulate", file, wrong)
        assert refused.returncode == 2
        assert told in refused.stderr
        assert "Traceback" not in refused.stderr


def test_the_command_line_writes_a_table(tmp_path: Path) -> None:
    one, two = study(tmp_path / "one"), study(tmp_path / "two", seed=1)
    file = tmp_path / "made.parquet"
    done = run("table", str(one.path), str(two.path), f"out={file}")
    assert done.returncode == 0, done.stderr
    assert Table.load(file).trials.num_rows == len(one.records()) + len(two.records())
    for words in ([str(one.path)], [f"out={file}"], [str(one.path), "out=made.csv"]):
        refused = run("table", *words)
        assert refused.returncode == 2
        assert "expected folders of studies and out=FILE.parquet" in refused.stderr
