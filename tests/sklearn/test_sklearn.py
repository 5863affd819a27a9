"""The scikit-learn estimators: scikit-learn's own checks, and what they promise beyond them."""

import pickle

import numpy as np
import pytest
import sympy
import torch

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import load_iris, make_moons
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from kan_fast import KAN
from kan_fast.sklearn import KANClassifier, KANRegressor, describe, rebuild
from kan_fast.sklearn.estimators import _mean_and_scale
from kan_fast.sklearn.splits import split_rows


@parametrize_with_checks([KANRegressor((4,), steps=30), KANClassifier((4,), steps=30)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def table(n=400, noise=0.0, seed=0):
    """Three columns in different units, the last of them without effect."""
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, (n, 3))
    y = np.sin(3 * x[:, 0]) + 0.5 * x[:, 1] ** 2 + noise * random.normal(size=n)
    return x * [100, 1, 1e-3] + [0, 50, 0], 20 * y - 7


@pytest.mark.parametrize(("opt", "steps", "r2"), [("Adam", 300, 0.99), ("LBFGS", 10, 0.999), ("LM", 15, 0.9999)])
def test_regression_generalises_in_any_units(opt, steps, r2):
    x, y = table()
    model = KANRegressor((5,), opt=opt, steps=steps, random_state=0).fit(x, y)
    assert model.score(*table(seed=1)) > r2
    assert next(model.model_.parameters()).dtype == (torch.float32 if opt == "Adam" else torch.float64)


def test_importances_rank_the_features():
    x, y = table()
    importances = KANRegressor((5,), steps=300, random_state=0).fit(x, y).feature_importances_
    assert importances.sum() == pytest.approx(1)
    assert importances[0] > 2 * importances[1] > 4 * importances[2]


def test_units_change_nothing_but_units():
    x, y = table(200)
    model = KANRegressor((3,), steps=50, random_state=3)
    plain = model.fit(x, y).predict(x)
    scaled = clone(model).fit(4 * x, 2 * y).predict(4 * x)  # powers of two are exact
    np.testing.assert_array_equal(scaled, 2 * plain)


def test_several_targets_are_as_good_as_one():
    x, y = table(300)
    both = KANRegressor((6,), steps=300, random_state=0).fit(x, np.stack([y, 1e4 * x[:, 0]], 1))
    assert both.predict(x).shape == (300, 2)
    assert both.score(x, np.stack([y, 1e4 * x[:, 0]], 1)) > 0.98
    assert both.fit(x, y[:, None]).predict(x).shape == (300, 1)


def test_the_best_state_on_held_out_samples_is_kept():
    x, y = table(80, noise=1.0)
    model = KANRegressor((20,), grid=20, steps=400, validation_fraction=0.25, weight_decay=0, random_state=0)
    losses = np.array(model.fit(x, y).validation_losses_)
    assert losses.argmin() < len(losses) - 5, "overfits by the end"
    early = clone(model).set_params(patience=5).fit(x, y)
    assert early.validation_losses_ == list(losses[: len(early.validation_losses_)])
    assert len(early.validation_losses_) < len(losses)
    _, held_out = model._split(len(x), None, np.random.RandomState(0))
    error = (model.predict(x[held_out]) - y[held_out]) / model.y_scale_
    assert (error**2).mean() == pytest.approx(losses.min(), rel=1e-4)


def test_classes_are_told_apart_and_probabilities_are_those_of_the_scores():
    x, y = make_moons(500, noise=0.15, random_state=0)
    names = np.array(["upper", "lower"])
    model = KANClassifier((5,), steps=200, random_state=0).fit(x, names[y])
    assert model.classes_.tolist() == ["lower", "upper"]
    x, y = make_moons(500, noise=0.15, random_state=1)
    assert model.score(x, names[y]) > 0.95
    odds, probability = model.decision_function(x), model.predict_proba(x)
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-15)
    np.testing.assert_allclose(np.log(probability[:, 1] / probability[:, 0]), odds, rtol=1e-6, atol=1e-6)

    x, y = load_iris(return_X_y=True)
    model = KANClassifier((5,), steps=200, random_state=0).fit(x, y)
    assert model.score(x, y) > 0.95
    np.testing.assert_array_equal(model.predict(x), model.predict_proba(x).argmax(1))
    assert model.predict_proba(x).shape == (150, 3)


def test_every_class_is_trained_on():
    x, y = np.random.default_rng(0).uniform(-1, 1, (40, 2)), np.array(["often"] * 39 + ["rare"])
    for seed in range(12):  # in some of them the one row would be held out
        learn, held_out = split_rows(40, 4, y, seed)
        assert 39 in learn
        assert sorted([*learn, *held_out]) == list(range(40))
        assert len(held_out) in (3, 4)
    x[39] = 3, 3
    seed = next(seed for seed in range(99) if 39 in split_rows(40, 4, None, np.random.RandomState(seed))[1])
    model = KANClassifier((), steps=100, weight_decay=0, random_state=seed).fit(x, y)
    assert model.predict(x[39:]) == ["rare"]


def test_formulas_predict_as_well_as_networks_in_the_units_of_the_table():
    x, y = table()
    model = KANRegressor((2,), lamb=0.01, random_state=0).fit(x, y)
    formula = model.formula_
    assert model.formula_ == formula
    new, expected = table(seed=1)
    values = sympy.lambdify(sympy.symbols("x_1 x_2 x_3"), formula)(*new.T)
    assert r2_score(expected, values) > min(0.99, model.score(new, expected))
    assert model.symbolic_.last_inputs.x.dtype == torch.float64
    loaded = pickle.loads(pickle.dumps(model))
    assert loaded.formula_ == formula
    unasked = pickle.loads(pickle.dumps(clone(model).set_params(steps=5).fit(x, y)))
    with pytest.raises(AttributeError, match="before pickling, or fit again"):
        unasked.formula_  # noqa: B018


def test_formulas_of_classes_are_their_scores():
    x, y = make_moons(300, noise=0.1, random_state=0)
    model = KANClassifier((2,), random_state=0).fit(x, y)
    odds = sympy.lambdify(sympy.symbols("x_1 x_2"), model.formula_)(*x.T)
    assert ((odds > 0) == y).mean() > 0.97
    x, y = load_iris(return_X_y=True)
    model = KANClassifier((), random_state=0).fit(x, y)
    scores = sympy.lambdify(sympy.symbols("x_1 x_2 x_3 x_4"), model.formula_)(*x.T)
    assert (np.argmax(scores, 0) == y).mean() > 0.95


def test_formulas_have_the_names_of_columns():
    pandas = pytest.importorskip("pandas")
    x, y = table(100)
    model = KANRegressor((), steps=50).fit(pandas.DataFrame(x, columns=["length", "mass", "the rest"]), y)
    assert {symbol.name for symbol in model.formula_.free_symbols} <= {"length", "mass", "the rest"}


def test_absolute_errors_are_robust_against_outliers():
    x, y = table(400)
    wrong = y.copy()
    wrong[::20] += 2000
    scores = [
        KANRegressor((5,), loss=loss, steps=300, random_state=0).fit(x, wrong).score(*table(seed=1))
        for loss in ("squared_error", "absolute_error")
    ]
    assert scores[1] > 0.9 > scores[0]


def test_pipelines_searches_copies_and_pickles():
    x, y = make_moons(120, noise=0.1, random_state=0)
    pipeline = make_pipeline(StandardScaler(), KANClassifier(steps=30, random_state=0))
    search = GridSearchCV(pipeline, {"kanclassifier__grid": [2, 4], "kanclassifier__hidden": [(), (3,)]}, cv=2)
    search.fit(x, y)
    assert search.best_score_ > 0.8
    best = search.best_estimator_[-1]
    assert best.model_.grid == search.best_params_["kanclassifier__grid"]
    assert clone(best).get_params() == best.get_params()
    loaded = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(loaded.predict_proba(x), search.predict_proba(x))


@pytest.mark.parametrize("kind", ["one", "several", "classes", "names"])
def test_plain_data_make_an_estimator_that_does_the_same(kind, tmp_path):
    x, y = table(100)
    if kind == "several":
        y = np.stack([y, x[:, 0]], 1)
    if kind == "names":
        x = pytest.importorskip("pandas").DataFrame(x, columns=["a", "b", "c"])
    estimator = KANClassifier if kind == "classes" else KANRegressor
    model = estimator((2,), steps=20, random_state=0).fit(x, y > np.median(y) if kind == "classes" else y)
    assert describe(model)["symbolic"] is None
    formula = model.formula_
    torch.save(describe(model), tmp_path / "m")
    loaded = rebuild(torch.load(tmp_path / "m", weights_only=True))
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    np.testing.assert_array_equal(loaded.feature_importances_, model.feature_importances_)
    assert loaded.score(x, model.predict(x)) == 1
    assert loaded.formula_ == formula
    assert loaded.get_params() == model.get_params()


def test_another_formula_can_be_set_and_goes_with_the_next_fit():
    x, y = table(100)
    model = KANRegressor((), steps=20).fit(x, y)
    model.symbolic_ = KAN([3, 1], seed=0)
    model.symbolic_.fix_symbolic(0, 0, 0, "sin", affine=(1.0, 0.0, 1.0, 0.0))
    for column in (1, 2):
        model.symbolic_.remove_edge(0, column, 0)
    assert model.formula_.atoms(sympy.Symbol) == {sympy.Symbol("x_1")}
    assert model.fit(x, y).formula_.atoms(sympy.Symbol) != {sympy.Symbol("x_1")}


def test_a_random_state_determines_everything_and_the_global_generators_stay():
    x, y = table(100)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first, second = (KANRegressor(steps=20, batch_size=16, random_state=5).fit(x, y).predict(x) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])
    other = KANRegressor(steps=20, batch_size=16, random_state=6).fit(x, y).predict(x)
    assert (first != other).any()


def test_one_hidden_level_can_be_a_number():
    x = np.random.default_rng(0).random((30, 2))
    assert KANRegressor(hidden=3, steps=1).fit(x, x[:, 0]).model_.width == [2, 3, 1]
    assert KANRegressor(hidden=np.int64(3), steps=1).fit(x, x[:, 0]).model_.width == [2, 3, 1]
    with pytest.raises(TypeError, match="hidden must be a list, got '3'"):
        KANRegressor(hidden="3").fit(x, x[:, 0])


def test_constant_columns_and_targets():
    x, y = table(50)
    x[:, 1] = 0.1
    assert np.isfinite(KANRegressor(steps=20).fit(x, y).predict(x)).all()
    constant = KANRegressor(steps=20, random_state=0).fit(x, np.full(50, 1e6)).predict(x)
    np.testing.assert_allclose(constant, 1e6, rtol=1e-5)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n", [20, 100, 1000, 100_000])
def test_columns_that_are_constant_but_for_rounding_are_not_scaled(n, order):
    """Standard deviations of equal numbers are rounding errors of their mean."""
    values = np.random.default_rng(n).uniform(-20, 20, 50).round(2)
    assert (_mean_and_scale("X", np.asarray(np.repeat(values[None], n, 0), order=order))[1] == 1).all()


@pytest.mark.parametrize("rate", [None, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("n", [2, 4, 12, 60])
def test_weight_decay_shrinks(n, rate):
    """More than all of a parameter taken away in each step made predictions of 2e8, with any seed."""
    x, y = table(n)
    fits = [
        KANRegressor((4,), steps=100, learning_rate=rate, validation_fraction=0, random_state=seed).fit(x, y)
        for seed in range(5)  # the last bits decide where a fit with rate 2 ends
    ]
    assert np.median([abs(fitted.predict(x)).max() for fitted in fits]) < 3 * abs(y).max()


@pytest.mark.parametrize("estimator", [KANRegressor, KANClassifier])
def test_another_value_in_a_column_that_was_constant(estimator):
    x, y = table(500)
    x[:, 1] = 7.4
    fitted = estimator(steps=50, random_state=0).fit(x, y if estimator is KANRegressor else y > 0)
    moved = x.copy()
    moved[:, 1] = 7.5
    answer = fitted.predict if estimator is KANRegressor else fitted.decision_function
    assert abs(answer(moved) - answer(x)).max() < np.ptp(answer(x))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (KANRegressor(loss="log_loss"), "unknown loss 'log_loss'; allowed: squared_error, absolute_error, huber"),
        (KANRegressor(opt="LM", batch_size=10), "leave out batch_size"),
        (KANRegressor(weight_decay=40), r"at most 1, got 40 \* 0.03; take a smaller weight_decay"),
        (KANRegressor(opt="LM", loss="huber"), "LM minimises the mean squared error alone"),
        (KANRegressor(opt="SGD"), "unknown optimiser 'SGD'"),
        (KANRegressor(validation_fraction=1.0), "less than 1"),
        (KANRegressor(dtype="float16"), "dtype must be one of float32, float64 or None"),
        (KANRegressor(weight_decay=-1), "weight_decay must be finite and at least 0"),
        (KANRegressor(steps=0), "steps must be at least 1"),
        (KANRegressor(hidden=(0,)), "each of them at least 1"),
        (KANRegressor(hidden=0), "each of them at least 1"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_bad_options(estimator, message):
    x, y = table(30)
    with pytest.raises(ValueError, match=message):
        estimator.fit(x, y)


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e-102, 1e102, 1e200, 1e300])
def test_numbers_whose_squares_do_not_fit_are_refused(size):
    """Deviations of tiny numbers were 0: columns stayed as they were, predictions were far off, and scores perfect."""
    x, y = table(30)
    far = x * [1, 1, size / 1e-3]
    for estimator in (KANRegressor(steps=5), KANClassifier(steps=5)):
        with pytest.raises(ValueError, match=r"X reaches \S+ in column 2; numbers must reach 1e-100 to 1e\+100"):
            estimator.fit(far, y if isinstance(estimator, KANRegressor) else y > 0)
    with pytest.raises(ValueError, match=r"y reaches \S+ in column 0; .*: change the unit"):
        KANRegressor(steps=5).fit(x, y * size)


def test_dates_are_no_numbers_but_can_be_classes():
    """They were nanoseconds or microseconds, whichever unit their dtype had."""
    pandas = pytest.importorskip("pandas")
    x, y = table(30)
    dates = pandas.Series(pandas.date_range("2026-01-01", periods=30))
    mixed = pandas.DataFrame({"size": x[:, 0], "when": dates})
    unit = r"turn them into numbers of a unit of your choice first, such as days"
    several = (mixed, mixed[["when"]], mixed[["when"]].to_numpy(), (dates - dates[0]).to_frame("when"))
    for columns in (*several, dates.dt.tz_localize("UTC").to_frame("when"), dates.dt.to_period("M").to_frame("when")):
        where = " in column 'when'" if isinstance(columns, pandas.DataFrame) else ""
        for estimator in (KANRegressor(), KANClassifier()):
            with pytest.raises(TypeError, match=rf"X holds \S+( UTC\])?{where}, dates or lengths of time; {unit}"):
                estimator.fit(columns, y > 0)
    for target in (dates, dates.to_numpy(), dates - dates[0], dates.to_frame("when"), list(dates.to_numpy())):
        with pytest.raises(TypeError, match=rf"y holds .*{unit}"):
            KANRegressor().fit(x, target)
    with pytest.raises(TypeError, match=r"X holds datetime64"):
        KANRegressor(steps=2).fit(x[:, :1], y).predict(dates.to_frame("when").to_numpy())
    assert (
        KANClassifier(steps=2).fit(x, dates[np.arange(30) % 2].to_numpy()).classes_.tolist()
        == dates[:2].to_numpy().tolist()
    )


def test_numbers_close_to_the_largest_and_smallest_are_learnt():
    x, y = table(100)
    scores = [
        KANRegressor((3,), opt="LM", steps=10, random_state=0).fit(x * a, y * b).score(x * a, y * b)
        for a, b in ((1, 1), (2.0**-320, 2.0**320), (2.0**310, 2.0**-325))
    ]
    assert scores[0] > 0.99
    assert scores[1:] == pytest.approx(scores[:1] * 2, rel=1e-9)


def test_samples_beyond_the_range_of_the_dtype_are_refused():
    x, y = table(30)
    model = KANRegressor(steps=5).fit(x, y)
    with pytest.raises(ValueError, match="too far from the training samples"):
        model.predict(np.full((1, 3), 1e100))
