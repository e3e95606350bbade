"""Students: they begin as their teacher, learn two of its steps in one, and are stages."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from imagen_jax.conditions import drop
from imagen_jax.config import MeshConfig
from imagen_jax.diffusion import samplers
from imagen_jax.diffusion.pixels import to_unit
from imagen_jax.diffusion.process import Predicted
from imagen_jax.errors import UsageError
from imagen_jax.networks import Networks, build_networks, prepare, told_guidance
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.planning.calls import training_steps
from imagen_jax.planning.estimate import estimate
from imagen_jax.training import distillation
from imagen_jax.training.distillation import TEACHER, Teacher, teachers_guided
from imagen_jax.training.objective import mean_loss
from imagen_jax.training.start import abstract_state
from imagen_jax.training.students import next_student, student_of
from imagen_jax.training.teachers import first_student, has_new_head, open_teacher, own_objective
from imagen_jax.weights.stage_file import load_stage_file, save_stage_file

MESH = make_mesh(MeshConfig(), jax.devices()[:1])
V = {"diffusion": {"prediction": "v"}, "sampling": {"num_steps": 3, "guidance_scale": 2.0}}
RECIPE = tiny.stage(
    text_encoder={"train": False}, conditions={"guidance": (1.0, 5.0)},
    diffusion={"prediction": "v"}, sampling={"guidance_scale": 1.0},
)  # fmt: skip
ENLARGING = tiny.super_resolution(
    **{x: getattr(RECIPE, x) for x in ("conditions", "diffusion", "sampling", "text_encoder")}
)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """(config) -> the path of a stage of it, whose numbers are random."""
    place = tmp_path_factory.mktemp("teachers")

    @functools.cache
    def save(config):
        path = place / f"{abs(hash(config))}.safetensors"
        save_stage_file(path, config, tiny.random_params(config), "float32")
        return str(path)

    return save


def begun(config):
    """A student's first parameters, and its frozen ones, on the host."""
    params = first_student(config, abstract_state(config, MESH).params)
    _, theirs = load_stage_file(open_teacher(config).origin)
    frozen = {TEACHER: theirs["unet"], "text_encoder": theirs["text_encoder"]}
    return params, jax.tree.map(jnp.asarray, frozen)


def batch_of(config, size):
    return {name: jnp.asarray(x) for name, x in tiny.batch(config, size).items()}


def predicts(config, params, frozen):
    """What a U-Net predicts of a batch, guided as 3 where it is told so."""
    networks, batch = build_networks(config), batch_of(config, 2)
    x, keys = to_unit(batch["image"]), jax.random.split(jax.random.key(0), 2)

    def run(params, batch):
        told = networks.conditions_of(params | frozen, batch)
        told = prepare(config, told, jnp.full(2, 0.3), keys, x.shape[1:3])
        told = networks.encode(params, told_guidance(config, told, jnp.full(2, 3.0)))
        return networks.predict(params, x, jnp.zeros(2), told).value

    return np.asarray(jax.jit(run)(params, batch))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [RECIPE, ENLARGING], ids=["base", "enlarging"])
def test_a_student_begins_as_its_teacher_to_the_bit(recipe, teachers):
    make = tiny.stage if recipe is RECIPE else tiny.super_resolution
    teacher = make(**V)
    config = student_of(recipe, teachers(teacher), 4)
    params, frozen = begun(config)
    theirs = predicts(teacher, {"unet": frozen[TEACHER]}, frozen)
    np.testing.assert_array_equal(predicts(config, params, frozen), theirs)
    assert config.conditions.guidance == (1.0, 5.0) and np.any(theirs)
    added = params["unet"].pop("added")["numbers"]["guidance_scale"]
    assert np.any(added["dense_1"]["kernel"]) and not np.any(added["dense_2"]["kernel"])


@pytest.mark.slow
def test_a_head_that_predicts_something_else_is_new(teachers):
    """Of a teacher that predicts eps, and its variance too, as DeepFloyd IF's do."""
    teacher = tiny.stage(
        unet={"variant": {"predicts_variance": True}}, diffusion={"schedule": "cosine_chain"}
    )
    config = student_of(RECIPE, teachers(teacher), 4)
    assert (config.diffusion.prediction, config.unet.variant.predicts_variance) == ("v", False)
    assert has_new_head(config, teacher) and config.diffusion.schedule == "cosine_chain"
    params, frozen = begun(config)
    theirs, ours = frozen[TEACHER], params["unet"]
    assert theirs["conv_out"]["kernel"].shape[-1] == 2 * ours["conv_out"]["kernel"].shape[-1]
    assert not np.any(ours["conv_out"]["kernel"])
    np.testing.assert_array_equal(ours["conv_in"]["kernel"], theirs["conv_in"]["kernel"])
    assert not np.any(predicts(config, params, frozen))
    assert 0 < loss(config, params, frozen) < 1e3


def loss(config, params, frozen):
    batch, keys = batch_of(config, 4), jax.random.split(jax.random.key(1), 4)
    of = (own_objective(config), config, build_networks(config))
    return float(jax.jit(functools.partial(mean_loss, *of))(params, frozen, batch, keys))


@pytest.mark.slow
def test_without_guidance_there_is_nothing_to_learn_at_first(teachers):
    """At any time, a student that begins as its teacher is no distance from it."""
    unguided = tiny.stage(**V | {"sampling": {"num_steps": 3, "guidance_scale": 1.0}})
    halved = student_of(RECIPE, teachers(unguided), 4)
    assert halved.conditions.guidance is None
    config = tiny.replace(halved, distillation={"steps": None})
    assert loss(config, *begun(config)) == 0
    with pytest.raises(UsageError, match="has nothing to learn from it: say how many it is to"):
        student_of(RECIPE, teachers(unguided), None)
    assert loss(halved, *begun(halved)) > 1e-4


@pytest.mark.slow
def test_what_is_learned_of_guidance_is_w_c_and_1_minus_w_u(teachers):
    config = student_of(RECIPE, teachers(tiny.stage(**V)), None)
    theirs = open_teacher(config).config
    teacher = Teacher(theirs, build_networks(theirs))
    params = {"unet": begun(config)[1][TEACHER]}
    arrays = {name: jnp.asarray(x) for name, x in tiny.inputs(config).items()}
    z, log_snr = arrays["z"], arrays["log_snr"]
    told = told_guidance(config, tiny.conditions(arrays), jnp.array([1.5, 4.0]))

    def predict(told, weights, guided=True):
        return teacher.predictor(params, told, None, weights)(z, log_snr, guided)

    blank = drop(told, jnp.ones(2, bool))
    c, u = predict(told, None), predict(blank, None)
    guided = predict(told, jnp.array([1.5, 4.0]))
    np.testing.assert_allclose(guided[0], 1.5 * c[0] - 0.5 * u[0], atol=1e-5)
    np.testing.assert_allclose(guided[1], 4.0 * c[1] - 3.0 * u[1], atol=1e-5)
    second = predict(told, jnp.array([1.5, 4.0]), jnp.array([False, True]))
    np.testing.assert_allclose(second, jnp.stack([c[0], guided[1]]), atol=1e-5)


def test_a_student_of_any_steps_learns_what_a_teacher_of_eps_samples_with(teachers):
    """By the closed form of v; an error of eps, divided by alpha, would have no bound."""
    theirs = tiny.stage(sampling={"guidance_scale": 2.0, "thresholding": "static"})
    config = student_of(RECIPE, teachers(theirs), None)
    assert (theirs.diffusion.prediction, config.diffusion.prediction) == ("eps", "v")
    teacher = Teacher(theirs, build_networks(theirs))
    x = jax.random.uniform(jax.random.key(0), (256, 2, 2, 3), minval=-1)
    eps = jax.random.normal(jax.random.key(1), x.shape)
    keys = jax.random.split(jax.random.key(2), 256)
    predict = lambda z, log_snr, guided: eps + 0.05  # noqa: E731
    t, log_snr, z, wanted = distillation._at_any_time(teacher, config, predict, x, eps, keys)
    assert t.max() > 0.99
    alpha, sigma = _alpha_sigma(np.asarray(log_snr, np.float64)[:, None, None, None])
    estimate = np.clip((z - sigma * (eps + 0.05)) / alpha, -1, 1)
    np.testing.assert_allclose(wanted, (alpha * z - estimate) / sigma, rtol=1e-3, atol=2e-3)
    assert np.abs(wanted).max() < 10


def test_a_student_is_told_the_weight_that_its_teacher_is_guided_by(teachers, monkeypatch):
    """Where the teacher says 1 with text and 0 without, its guided v is the weight w; a student
    that says 0 is then w^2 from it."""
    config, count, told = student_of(RECIPE, teachers(tiny.stage(**V)), None), 64, {}

    def encode(self, params, conditions):
        told[len(conditions.mask)] = conditions.numbers

    def predict(self, params, z, log_snr, encoded):
        by_two = len(z) == 2 * count
        return Predicted(jnp.zeros_like(z).at[:count].set(1.0 if by_two else 0.0))

    monkeypatch.setattr(Networks, "embed", lambda *_: jnp.zeros((count, tiny.LENGTH, 4)))
    monkeypatch.setattr(Networks, "encode", encode)
    monkeypatch.setattr(Networks, "predict", predict)
    keys = jax.random.split(jax.random.key(2), count)
    of = (config, build_networks(config), {}, {TEACHER: {}}, batch_of(config, count), keys)
    losses, _ = own_objective(config)(*of)
    weights = 1 + 4 * np.asarray(told[count]["guidance_scale"])  # It hears the place in 1 to 5.
    assert 1 <= weights.min() < 1.3 and 4.7 < weights.max() <= 5
    np.testing.assert_allclose(losses, weights**2, rtol=1e-5)


def test_a_teacher_that_takes_weights_is_told_one_where_it_is_not_guided(teachers):
    config = student_of(RECIPE, teachers(tiny.stage(**V)), None)
    networks = build_networks(config)
    params = jax.tree.map(jnp.asarray, tiny.random_params(config))
    arrays = {name: jnp.asarray(x) for name, x in tiny.inputs(config).items()}
    z, log_snr = arrays["z"], arrays["log_snr"]
    plain = tiny.conditions(arrays)

    def told(*weights):
        return told_guidance(config, plain, jnp.array(weights))

    predict = Teacher(config, networks).predictor(params, told(3.0, 4.0), None, jnp.array([3.0, 4]))
    found = predict(z, log_snr, jnp.array([True, False]))
    encoded = networks.encode(params, told(3.0, 1.0))
    wanted = networks.predict(params, z, log_snr, encoded).value
    np.testing.assert_array_equal(found, wanted)
    assert np.any(found != predict(z, log_snr, True))


def test_a_consistent_student_is_led_by_itself_to_the_end_of_its_step(teachers):
    """One step of DDIM with the teacher's x, one with the student's own, in float64."""
    sampling = {"thresholding": "static", "guidance_scale": 1.0, "guidance_interval": (0.2, 0.8)}
    teacher = tiny.stage(**V | {"sampling": sampling})
    recipe = tiny.replace(RECIPE, distillation={"method": "consistency", "consistency_steps": 12})
    config = student_of(recipe, teachers(teacher), 4)
    assert config.sampling.num_steps == 4
    rng = np.random.default_rng(0)
    x, eps = (jnp.float32(rng.normal(size=(200, 4, 4, 3))) for _ in range(2))
    theirs = lambda z, log_snr, guided: jnp.tanh(z) * _strength(guided)  # noqa: E731
    ours = lambda z, log_snr: jnp.tanh(z) * 0.3  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 200)
    one = (Teacher(teacher, build_networks(teacher)), config, theirs, x, eps, keys)
    t, log_snr, z, wanted = (np.float64(a) for a in distillation._consistently(ours, *one))
    grid = np.float64(samplers.time_grid("cosine", 12))
    seen = set()
    for number in range(200):
        index = round(12 * (1 - t[number]))
        seen.add(index)
        assert abs(log_snr[number] - grid[index]) < 1e-4
        (a_t, s_t), (a_m, s_m) = map(_alpha_sigma, grid[index : index + 2])
        a_s, s_s = _alpha_sigma(grid[3 * (index // 3 + 1)])
        of_x = 0.1 if 0.2 <= t[number] <= 0.8 else 0.05
        first = np.clip(a_t * z[number] - s_t * of_x * np.tanh(z[number]), -1, 1)
        middle = a_m * first + s_m * (z[number] - a_t * first) / s_t
        second = a_m * middle - s_m * 0.3 * np.tanh(middle)
        if index == 11:
            expected = first  # The teacher's step ends where the picture does.
        elif index // 3 == 3:
            expected = second
        else:
            end = a_s * second + s_s * (middle - a_m * second) / s_m if index % 3 < 2 else middle
            expected = (end - s_s / s_t * z[number]) / (a_s - s_s / s_t * a_t)
        found = a_t * z[number] - s_t * wanted[number]
        np.testing.assert_allclose(found, expected, atol=2e-4)
    assert seen == set(range(12))


@pytest.mark.slow
def test_a_consistent_student_learns_from_a_teacher_of_any_steps_alone(teachers):
    first = tiny.replace(
        student_of(RECIPE, teachers(tiny.stage(**V)), 4), distillation={"teacher": ""}
    )
    recipe = tiny.replace(RECIPE, distillation={"method": "consistency"})
    with pytest.raises(UsageError, match="takes 4 steps; distillation.method 'consistency' learns"):
        open_teacher(student_of(recipe, teachers(first), 2))
    config = student_of(recipe, teachers(tiny.stage(**V)), 2)
    assert 0 < loss(config, *begun(config)) < 1e3
    with pytest.raises(UsageError, match="consistency_steps is 128; it must be a multiple of the"):
        student_of(recipe, teachers(tiny.stage(**V)), 3)


@pytest.mark.parametrize("schedule", ["cosine", "cosine_chain"])
def test_the_target_is_what_two_steps_of_the_sampler_lead_to(schedule, teachers):
    """By the sampler itself, in float64, from the time that was drawn; and of the last, x."""
    changes = {"diffusion": {"prediction": "eps", "schedule": schedule}}
    sampling = {"thresholding": "static", "guidance_scale": 1.0, "guidance_interval": (0.3, 0.8)}
    teacher = tiny.stage(**changes, sampling=sampling)
    config = student_of(RECIPE, teachers(teacher), 4)
    rng = np.random.default_rng(0)
    x, eps = (jnp.float32(rng.normal(size=(32, 4, 4, 3))) for _ in range(2))

    def predict(z, log_snr, guided):
        return 10 * _strength(guided) * jnp.tanh(z + log_snr[:, None, None, None] / 20)

    keys = jax.random.split(jax.random.key(0), 32)
    one = (Teacher(teacher, build_networks(teacher)), config, predict, x, eps, keys)
    t, log_snr, z, wanted = (np.float64(a) for a in distillation._in_one_step(*one))
    of_steps = schedule, 8, teacher.sampling.spacing
    grid = np.float64(samplers.time_grid(*of_steps))
    strengths = [1.0 if 0.3 <= time <= 0.8 else 0.5 for time in samplers.times(*of_steps)]
    assert set(strengths) == {0.5, 1.0}
    seen = set()
    for number in range(32):
        index = round(4 * (1 - t[number]))
        seen.add(index)
        at = grid[2 * index : 2 * index + 3]
        assert abs(log_snr[number] - at[0]) < 1e-5
        own = strengths[2 * index : 2 * index + 2]
        expected = _two_steps(z[number], at, own, last=index == 3)
        alpha, sigma = _alpha_sigma(at[0])
        found = alpha * z[number] - sigma * wanted[number]  # The student predicts v.
        np.testing.assert_allclose(found, expected, atol=2e-4 / alpha if alpha < 1e-2 else 2e-4)
    assert seen == {0, 1, 2, 3}


def _alpha_sigma(log_snr):
    return (1 + np.exp(-log_snr)) ** -0.5, (1 + np.exp(log_snr)) ** -0.5


def _strength(guided):
    """What stands for guidance, of a prediction."""
    return jnp.where(guided, 0.1, 0.05)[:, None, None, None]


def _two_steps(z, log_snrs, strengths, *, last):
    """The x whose single step of DDIM from z ends where two steps do."""
    (a_t, s_t), (a_m, s_m), (a_s, s_s) = map(_alpha_sigma, log_snrs)

    def x(z, a, s, at, strength):
        return np.clip((z - s * strength * np.tanh(z + at / 20)) / a, -1, 1)

    first = x(z, a_t, s_t, log_snrs[0], strengths[0])
    middle = a_m * first + s_m * (z - a_t * first) / s_t
    second = x(middle, a_m, s_m, log_snrs[1], strengths[1])
    if last:
        return second
    end = a_s * second + s_s * (middle - a_m * second) / s_m
    return (end - s_s / s_t * z) / (a_s - s_s / s_t * a_t)


def test_a_student_samples_at_every_second_time_of_its_teacher(teachers):
    teacher = tiny.stage(
        diffusion={"schedule": "cosine_chain"}, sampling={"spacing": "leading", "sampler": "dpm++"}
    )
    first = student_of(RECIPE, teachers(teacher), 4)
    assert first.sampling.timesteps == (875, 625, 375, 125)
    assert (first.sampling.sampler, first.sampling.num_steps, first.sampling.eta) == ("ddim", 4, 0)
    assert first.as_learned(tiny.replace(
        first.sampling, num_steps=2, timesteps=()
    )).timesteps == (875, 375)  # fmt: skip


def test_a_student_keeps_every_second_of_a_teachers_chosen_times(teachers):
    chosen = {"num_steps": 4, "timesteps": (999, 900, 420, 30)}
    teacher = teachers(tiny.stage(**V | {"sampling": chosen}))
    config = student_of(RECIPE, teacher, 2)
    assert config.sampling.timesteps == (999, 420)
    open_teacher(config)
    assert student_of(RECIPE, teacher, 4).sampling.timesteps == ()


def test_a_student_of_few_steps_learns_where_its_teacher_is_guided(teachers):
    """It is told one weight at all steps, while one of any steps keeps its teacher's settings."""
    own = {"guidance_interval": (0.3, 0.8), "guidance_oscillates_from": 2}
    teacher = tiny.stage(**V | {"sampling": {"num_steps": 4, "guidance_scale": 2.0, **own}})
    any_steps, few = (student_of(RECIPE, teachers(teacher), steps) for steps in (None, 2))
    assert any_steps.sampling.guides_some_steps and not few.sampling.guides_some_steps
    assert not next_student(any_steps, teachers(any_steps), 2).sampling.guides_some_steps
    # At times 1, 0.75, 0.5 and 0.25: the first and last are outside, and from the third on every
    # second one is guided.
    assert teachers_guided(few, teacher).tolist() == [False, True, False, False]
    unlimited = tiny.replace(teacher, sampling={"guidance_interval": (0.0, 1.0)})
    assert teachers_guided(few, unlimited).tolist() == [True, True, False, True]


def test_a_chain_has_so_many_steps_and_no_more(teachers):
    on_chain = teachers(tiny.stage(diffusion={"schedule": "cosine_chain"}))
    assert len(student_of(RECIPE, on_chain, 500).sampling.timesteps) == 500
    with pytest.raises(UsageError, match="Such a student needs 1002 steps of its teacher, whose"):
        student_of(RECIPE, on_chain, 501)


@pytest.mark.slow
def test_planning_counts_the_teacher(teachers):
    config = student_of(RECIPE, teachers(tiny.stage(**V)), 4)
    alone = dataclasses.replace(
        config, distillation=dataclasses.replace(config.distillation, teacher="", steps=None),
        conditions=dataclasses.replace(config.conditions, guidance=None),
    )  # fmt: skip
    assert estimate(config, 1).frozen > estimate(alone, 1).frozen
    (step,) = training_steps(config, MESH)
    step.function.trace(*step.arguments)


WRONG = [
    ({"resolution": 32}, "has resolution 16; this config has 32"),
    (
        {"text_encoder": {"t5": dataclasses.replace(tiny.T5, d_ff=8)}},
        "has text_encoder.t5 T5",
    ),
    ({"text_encoder": {"max_length": 4}}, "has text_encoder.max_length 8; this config has 4"),
    ({"text_encoder": {"null": "empty"}}, "has text_encoder.null 'zeros'; this config has 'empty'"),
    ({"conditions": {"classes": 3}}, "has conditions.classes None; this config has 3"),
    ({"diffusion": {"schedule": "linear"}}, "has diffusion.schedule 'cosine'; this config has"),
]


@pytest.mark.parametrize(("changes", "says"), WRONG, ids=[says for _, says in WRONG])
def test_a_teacher_of_something_else_is_refused(changes, says, teachers):
    config = tiny.replace(student_of(RECIPE, teachers(tiny.stage(**V)), 4), **changes)
    with pytest.raises(UsageError, match=says):
        open_teacher(config)


@pytest.mark.slow
def test_steps_that_do_not_halve_and_guidance_of_another_range_are_refused(teachers):
    first = student_of(RECIPE, teachers(tiny.stage(**V)), 4)
    of_students = tiny.replace(first, distillation={"teacher": ""})
    learner = student_of(RECIPE, teachers(of_students), 2)
    assert learner.conditions.guidance == (1.0, 5.0)
    open_teacher(learner)
    with pytest.raises(UsageError, match="takes 4 steps and distillation.steps is 1; a student"):
        open_teacher(student_of(RECIPE, teachers(of_students), 1))
    wider = tiny.replace(learner, conditions={"guidance": (1.0, 9.0)})
    with pytest.raises(UsageError, match=r"learned conditions.guidance \(1.0, 5.0\); this config"):
        open_teacher(wider)
    with pytest.raises(UsageError, match="only a teacher shows a stage that"):
        own_objective(of_students)
    with pytest.raises(UsageError, match="has low_resolution None; tiny has 8"):
        student_of(ENLARGING, teachers(tiny.stage(**V)), 4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"diffusion": {"prediction": "eps"}}, "predict v or x0"),
        (
            {"unet": {"variant": {"predicts_variance": True}}},
            "unet.variant.predicts_variance is True and distillation",
        ),
        ({"sampling": {"num_steps": 3}}, "num_steps is 3; 'tiny' was distilled to 4 steps, and"),
        ({"sampling": {"timesteps": (9, 8, 7, 6)}, "diffusion": {"schedule": "cosine_chain"}},
         "they must be one in 2 of the 8 steps that distillation.teacher"),
    ],
)  # fmt: skip
def test_a_student_that_cannot_be_is_refused(changes, says, teachers):
    schedule = changes.get("diffusion", {}).get("schedule", "cosine")
    teacher = tiny.stage(**V | {"diffusion": {"prediction": "v", "schedule": schedule}})
    with pytest.raises(UsageError, match=says):
        open_teacher(tiny.replace(student_of(RECIPE, teachers(teacher), 4), **changes))
