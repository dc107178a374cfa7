"""Updates against recorded numbers of public code. IQL: three updates of the authors' and of CORL's version.

The recorded runs hand their critic loss to Adam differently: CORL halves the sum over the two critics that we (and the
authors) take whole. Losses are compared after halving ours. Adam hardly notices the factor: its step is
m / (sqrt(v) + eps), and only `eps` does not scale along. That exact difference is computed here from the recorded
gradients, Adam by hand, and put on the recorded parameters, so no tolerance has to hide it.
"""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from zoo import make_batch

from segue.learners import CQL, DT, IQL, SAC
from segue.learners import cql as cql_page
from segue.learners import sac as sac_page
from segue.learners.dt import State as DTState
from segue.learners.iql import State
from segue.losses import Mean, RandomMin, action_error
from segue.nets import Critic, GaussianActor, Layer, Mlp, TanhNormal, Value, normal_log_prob
from segue.optim import trained
from segue.transformer import windows
from segue.types import Module, Spec

FOLDER = Path(__file__).parents[1].parent / "shared" / "data" / "parity"
RUNS = ["iql_authors", "iql"]
STEPS = 3


def read(name):
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"{path.name} of ../shared is absent")
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def perceptron(z, net, dtype):
    array = lambda key: jnp.asarray(z[key], dtype)
    layers = sum(key.startswith(f"{net}/layer") and key.endswith("/weight") for key in z)
    return Mlp(tuple(Layer(array(f"{net}/layer{i}/weight"), array(f"{net}/layer{i}/bias")) for i in range(layers)))


def ensemble(z, net, dtype):
    return jax.tree.map(lambda *members: jnp.stack(members), *(perceptron(z, f"{net}/{i}", dtype) for i in range(2)))


def networks(z, at, dtype):
    """Our nets with the recorded parameters at `at` ("init", "f64/step2/after", ...)."""
    return {
        "actor": GaussianActor(perceptron(z, f"{at}/actor", dtype), jnp.asarray(z[f"{at}/actor/log_std"], dtype)),
        "critic": Critic(ensemble(z, f"{at}/critic", dtype)),
        "target_critic": Critic(ensemble(z, f"{at}/target_critic", dtype)),
        "value": Value(perceptron(z, f"{at}/value", dtype)),
    }


def learner_of(name, z):
    hp = lambda key: float(z[f"hp/{key}"])
    return IQL(
        expectile=hp("expectile"),
        beta=hp("beta"),
        discount=hp("discount"),
        target_rate=hp("tau"),
        lr=hp("learning_rate"),
        actor_decay=int(hp("cosine_steps")),
        lagged_value=name == "iql",
        hidden=(16, 16),
    )


def updates(name, z, dtype):
    """The three states and metrics of the public `IQL.update`."""
    learner, nets = learner_of(name, z), networks(z, "init", dtype)
    state = State(
        trained(nets["actor"]), trained(nets["critic"]), nets["target_critic"], trained(nets["value"]), jnp.int32(0)
    )
    columns = {"obs": "observations", "action": "actions", "reward": "rewards", "next_obs": "next_observations"}
    columns = {ours: z[f"batch/{theirs}"] for ours, theirs in (columns | {"terminal": "terminals"}).items()}
    batch = make_batch(len(columns["reward"]), **columns)
    assert batch.obs.dtype == dtype
    step, out = jax.jit(learner.update), []
    for _ in range(STEPS):
        state, info = step(state, batch, jax.random.key(0))
        out.append((state, info))
    return batch, out


def adam_steps(grads, lr, eps=1e-8):
    """Displacement after each of Adam's steps on these gradients, by hand."""
    m = v = x = np.zeros_like(grads[0])
    out = []
    for t, g in enumerate(grads, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + eps)
        out.append(x)
    return out


def whole_loss(z):
    """The recorded CORL run as it would be with the whole critic loss: `eps` counts half as much."""
    z, lr, tau = dict(z), float(z["hp/learning_rate"]), float(z["hp/tau"])
    for key in [k.removeprefix("init/critic/") for k in z if k.startswith("init/critic/")]:
        grads = [z[f"f64/step{t}/grad/critic/{key}"].astype(np.float64) for t in range(1, STEPS + 1)]
        more = zip(adam_steps([2 * g for g in grads], lr), adam_steps(grads, lr), strict=True)
        target = 0.0
        for t, (whole, half) in enumerate(more, 1):
            z[f"f64/step{t}/after/critic/{key}"] = z[f"f64/step{t}/after/critic/{key}"] + (whole - half)
            target = (1 - tau) * target + tau * (whole - half)
            z[f"f64/step{t}/after/target_critic/{key}"] = z[f"f64/step{t}/after/target_critic/{key}"] + target
    return z


def losses(name, info):
    """Our metrics in the names of the recorded losses."""
    critic = 2 * info["critic/td"] if name == "iql_authors" else info["critic/td"]  # sum of two members, or half of it
    return {"value": info["value/expectile"], "actor": info["actor/awr"], "critic": critic}


@pytest.mark.parametrize("name", RUNS)
def test_three_updates_in_double_precision(name):
    z = read(name)
    # CORL's code casts a mask to single precision: losses hold to about 2e-9 (its README), ours to 1e-7 with ease
    with jax.enable_x64(True):
        _, out = updates(name, z, jnp.float64)
        expected = whole_loss(z) if name == "iql" else z
        for t, (state, info) in enumerate(out, 1):
            for loss, number in losses(name, info).items():
                np.testing.assert_allclose(number, z[f"f64/step{t}/loss/{loss}"], rtol=1e-7, err_msg=f"{loss} {t}")
            ours = {"actor": state.actor.net, "critic": state.critic.net, "value": state.value.net}
            ours["target_critic"] = state.target_critic
            for net, theirs in networks(expected, f"f64/step{t}/after", jnp.float64).items():
                for a, b in zip(jax.tree.leaves(ours[net]), jax.tree.leaves(theirs), strict=True):
                    # a step is 3e-4 long: the floor is 1e-7 of it
                    np.testing.assert_allclose(a, b, rtol=1e-7, atol=3e-11, err_msg=f"{net} after update {t}")


@pytest.mark.parametrize("name", RUNS)
def test_intermediate_values_and_moments_in_double_precision(name):
    """Values of update t from the recorded parameters before it; gradients by Adam's first moment after update 1."""
    z = read(name)
    with jax.enable_x64(True):
        batch, out = updates(name, z, jnp.float64)
        (s, a, *_), rtol = batch.transition, 1e-7
        for t in range(1, STEPS + 1):
            nets = networks(z, "init" if t == 1 else f"f64/step{t - 1}/after", jnp.float64)
            recorded = lambda what, t=t: z[f"f64/step{t}/value/{what}"]
            np.testing.assert_allclose(nets["target_critic"](s, a).min(0), recorded("target_q_min"), rtol=rtol)
            np.testing.assert_allclose(nets["value"](s), recorded("v"), rtol=rtol)
            q1, q2 = nets["critic"](s, a)
            np.testing.assert_allclose(q1, recorded("q1"), rtol=rtol)
            np.testing.assert_allclose(q2, recorded("q2"), rtol=rtol)
            log_prob = recorded("log_prob") if name == "iql_authors" else -recorded("neg_log_prob")
            np.testing.assert_allclose(nets["actor"](s).log_prob(a), log_prob, rtol=rtol)
        state = out[0][0]
        factor = 2 if name == "iql" else 1
        start = networks(z, "init", jnp.float64)
        for net, scale in (("actor", 1), ("value", 1), ("critic", factor)):
            m = getattr(state, net).opt.mu  # 0.1 times the gradient
            if (name, net) == ("iql", "value"):
                m = jax.tree.map(lambda m, e: m + 0.1 * e, m, single_precision_weight(start, s, a, z))
            grads = {
                k.removeprefix(f"f64/step1/grad/{net}/"): z[k] for k in z if k.startswith(f"f64/step1/grad/{net}/")
            }
            assert grads
            for key, grad in grads.items():
                expected, part = 0.1 * scale * grad, m if net == "actor" else m.net
                # the README: CORL's double precision is exact to about 1e-8; sums that cancel show it
                atol = 1e-8 * np.abs(expected).max() if name == "iql" else 1e-12
                np.testing.assert_allclose(leaf(part, key), expected, rtol=1e-7, atol=atol, err_msg=f"{net}/{key}")


def single_precision_weight(nets, s, a, z):
    """CORL's expectile weight passes through single precision: what that changes in the value's gradient."""
    q, tau = nets["target_critic"](s, a).min(0), float(z["hp/expectile"])

    def loss(value, kind):
        u = q - value(s)
        weight = np.abs(kind(tau) - np.asarray(q - nets["value"](s) < 0, kind)).astype(np.float64)
        return (weight * u**2).mean()

    rounded, exact = (jax.grad(loss)(nets["value"], kind) for kind in (np.float32, np.float64))
    return jax.tree.map(jnp.subtract, rounded, exact)


def leaf(net, key):
    """The array of a recorded name in one of our nets: "1/layer0/weight", "layer2/bias", "log_std"."""
    if key == "log_std":
        return net.log_std
    *member, layer, part = key.split("/")
    layers = net.net.layers if hasattr(net, "log_std") else net.layers
    array = getattr(layers[int(layer.removeprefix("layer"))], part)
    return array[int(member[0])] if member else array


@pytest.mark.parametrize("name", RUNS)
def test_three_updates_in_single_precision(name):
    z = read(name)
    _, out = updates(name, z, jnp.float32)
    for t, (_, info) in enumerate(out, 1):
        for loss, number in losses(name, info).items():
            # the README's worst between two float32 runs of the same code is 3e-6
            np.testing.assert_allclose(number, z[f"f64/step{t}/loss/{loss}"], rtol=3e-6, err_msg=f"{loss} {t}")
    nets = networks(z, f"f32/step{STEPS}/after", jnp.float32)
    state = out[-1][0]
    ours = {"actor": state.actor.net, "critic": state.critic.net, "value": state.value.net}
    ours["target_critic"] = state.target_critic
    for net, theirs in nets.items():
        for a, b in zip(jax.tree.leaves(ours[net]), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=3e-6, err_msg=net)


# ------------------------------------------------------------------------------------------------ Decision Transformer
#
# The recorded loss divides by all entries, ours by the valid ones: a constant factor, by which losses and gradients are
# compared. Clipping to a norm takes it out again, up to the 1e-6 in its denominator, so parameters need no correction.

DT_HP = {"embed": "embedding_dim", "layers": "layers", "heads": "heads", "context": "context", "lr": "learning_rate"}
DT_HP |= {"warmup": "warmup_updates", "weight_decay": "weight_decay", "clip": "clip_norm", "dropout": "dropout"}
DT_NAMES = {"embed_time/table": "times", "norm1": "norm_1", "norm2": "norm_2", "mlp0": "up", "mlp1": "down"}


def dt_path(key):
    """The path in our actor of a recorded name: "block0/norm1/scale" is ``body.blocks[0].norm_1.scale``."""
    for theirs, ours in DT_NAMES.items():
        key = key.replace(theirs, ours)
    parts = [key.partition("/")[0], *filter(None, key.partition("/")[2].split("/"))]
    if parts[0].startswith("block"):
        parts[:1] = ["blocks", int(parts[0].removeprefix("block"))]
    return parts if parts[0] == "head" else ["body", *parts]


def dt_leaf(actor, key):
    for part in dt_path(key):
        actor = actor[part] if isinstance(part, int) else getattr(actor, part)
    return actor


def dt_names(z):
    return [k.removeprefix("init/dt/") for k in z if k.startswith("init/dt/")]


def dt_actor(z, at, like, dtype):
    """Our actor with the recorded parameters at `at`."""
    names = dt_names(z)
    where = lambda actor: [dt_leaf(actor, k) for k in names]
    actor = eqx.tree_at(where, like, [jnp.asarray(z[f"{at}/dt/{k}"], dtype) for k in names])
    assert len(names) == len(jax.tree.leaves(like))
    return actor


def dt_updates(z, dtype):
    """Batch, first actor, and states with metrics after the three updates of the public `DT.update`."""
    learner = DT(**{ours: z[f"hp/{theirs}"].item() for ours, theirs in DT_HP.items()}, return_scale=1.0)
    spec = Spec(z["batch/observations"].shape[-1], z["batch/actions"].shape[-1], int(z["hp/episode_length"]))
    state = learner.init(jax.random.key(0), spec)
    start = dt_actor(z, "init", jax.tree.map(lambda x: x.astype(dtype), state.actor.net), dtype)
    state = DTState(trained(start))
    columns = {"obs": "observations", "action": "actions", "mc_return": "returns_to_go", "step": "timesteps"}
    columns = {ours: z[f"batch/{theirs}"] for ours, theirs in (columns | {"valid": "mask"}).items()}
    batch = make_batch(len(columns["obs"]), **columns)
    assert batch.obs.dtype == dtype
    update, out = jax.jit(learner.update), []
    for _ in range(STEPS):
        state, info = update(state, batch, jax.random.key(0))
        out.append((state, info))
    return batch, start, out


def test_decision_transformer_in_double_precision():
    z = read("decision_transformer")
    with jax.enable_x64(True):
        batch, start, out = dt_updates(z, jnp.float64)
        share = float(batch.valid.mean())  # of valid entries
        assert 0 < share < 1
        for t, (state, info) in enumerate(out, 1):
            at = dt_actor(z, "init" if t == 1 else f"f64/step{t - 1}/after", start, jnp.float64)
            w, recorded = windows(batch, 1.0), lambda what, t=t: z[f"f64/step{t}/{what}"]
            np.testing.assert_allclose(at.body.tokens(w), recorded("value/tokens"), rtol=1e-7, atol=1e-12)
            valid = np.asarray(batch.valid) > 0  # what stands at padding depends on what a padded token sees: itself
            np.testing.assert_allclose(at(w)[valid], recorded("value/prediction")[valid], rtol=1e-7)
            np.testing.assert_allclose(info["actor/error"] * share, recorded("loss/action"), rtol=1e-7)
            grad = jax.grad(lambda pi: action_error(pi(w), batch.action, batch.valid)[0] * share)(at)
            norm = optax.tree.norm(grad)
            np.testing.assert_allclose(norm, recorded("value/grad_norm"), rtol=1e-7)
            clipped = jax.tree.map(lambda g, norm=norm: g * float(z["hp/clip_norm"]) / (norm + 1e-6), grad)
            for key in dt_names(z):
                theirs = recorded(f"grad/dt/{key}")
                np.testing.assert_allclose(dt_leaf(clipped, key), theirs, rtol=1e-7, atol=1e-12, err_msg=f"{key} {t}")
            for key in dt_names(z):
                ours, theirs = dt_leaf(state.actor.net, key), recorded(f"after/dt/{key}")
                if key.endswith("qkv/bias"):  # the gradient of its key part is 0, and Adam's step rounding made large
                    ours, theirs = np.delete(ours, np.s_[16:32]), np.delete(theirs, np.s_[16:32])
                # a step is 1e-3 t / 5 long: the floor is 1e-6 of the first
                np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=2e-10, err_msg=f"{key} after update {t}")


def test_decision_transformer_in_single_precision():
    z = read("decision_transformer")
    batch, start, out = dt_updates(z, jnp.float32)
    share = float(batch.valid.mean())
    for t, (_, info) in enumerate(out, 1):
        np.testing.assert_allclose(info["actor/error"] * share, z[f"f64/step{t}/loss/action"], rtol=3e-6)
    theirs = dt_actor(z, f"f32/step{STEPS}/after", start, jnp.float32)
    for key in dt_names(z):
        if not key.endswith("qkv/bias"):
            a, b = dt_leaf(out[-1][0].actor.net, key), dt_leaf(theirs, key)
            np.testing.assert_allclose(a, b, rtol=0, atol=3e-6, err_msg=key)


# ---------------------------------------------------------------------------------------------------------------- CQL
#
# Recorded are the draws, so each draw of our update is answered by the recorded one, in the order of the page. The
# recorded actor has a trainable scale and offset of its log-deviation; an actor of this file has them too.

CQL_RUNS = ["cql", "cql_lagrange_maxbackup", "cql_plain_logsumexp_entropy"]
NORMALS = ("policy_eps", "next_policy_eps", "cql_current_eps", "cql_next_eps")


class ScaledActor(Module):
    net: Mlp
    multiplier: jax.Array
    offset: jax.Array

    def __call__(self, obs):
        mean, log_std = jnp.split(self.net(obs), 2, -1)
        return TanhNormal(mean, jnp.exp(jnp.clip(self.multiplier * log_std + self.offset, -20, 2)))


def cql_nets(z, at, dtype):
    number = lambda key: jnp.asarray(z[f"{at}/{key}"], dtype)
    scale = number("actor/log_std_multiplier"), number("actor/log_std_offset")
    nets = {
        "actor": ScaledActor(perceptron(z, f"{at}/actor", dtype), *scale),
        "critic": Critic(ensemble(z, f"{at}/critic", dtype)),
        "target_critic": Critic(ensemble(z, f"{at}/target_critic", dtype)),
        "log_alpha": number("log_alpha/value"),
    }
    return nets | ({"log_dual": number("log_alpha_prime/value")} if f"{at}/log_alpha_prime/value" in z else {})


def cql_learner(z):
    hp = lambda key: z[f"hp/{key}"].item()
    return CQL(
        weight=hp("cql_alpha"),
        gap=hp("cql_target_action_gap") if hp("lagrange") else None,
        samples=hp("cql_n_actions"),
        importance=bool(hp("importance_sample")),
        temperature=hp("cql_temp"),
        backup_samples=hp("cql_n_actions") if hp("max_target_backup") else 1,
        backup_entropy=bool(hp("backup_entropy")),
        entropy_per_action=hp("target_entropy") / z["batch/actions"].shape[-1],
        discount=hp("discount"),
        target_rate=hp("tau"),
        lr=hp("critic_learning_rate"),
        actor_lr=hp("actor_learning_rate"),
    )


def cql_updates(z, dtype, monkeypatch):
    """Batch and the states with metrics after the three updates of the public `CQL.update`."""
    learner, nets = cql_learner(z), cql_nets(z, "init", dtype)
    moving = {k: net if k == "target_critic" else trained(net) for k, net in nets.items()}
    state = cql_page.State(**{"log_dual": trained(jnp.zeros((), dtype))} | moving, step=jnp.int32(0))
    columns = {"obs": "observations", "action": "actions", "reward": "rewards", "next_obs": "next_observations"}
    columns = {ours: z[f"batch/{theirs}"] for ours, theirs in (columns | {"terminal": "terminals"}).items()}
    batch = make_batch(len(columns["reward"]), **columns)
    assert batch.obs.dtype == dtype
    left = []

    def answer(shape, kind):
        name, draw = left.pop(0)
        assert (draw.shape, draw.dtype, name == "cql_random_action") == (shape, dtype, kind == "uniform"), name
        return draw

    @jax.jit
    def step(state, draws):
        left[:] = [(name, draws[name]) for name in (*NORMALS, "cql_random_action")]
        out = learner.update(state, batch, jax.random.key(0))
        assert not left
        return out

    monkeypatch.setattr(jax.random, "normal", lambda _key, shape, _dtype: answer(shape, "normal"))
    monkeypatch.setattr(jax.random, "uniform", lambda _key, shape, *_: answer(shape, "uniform"))
    out = []
    for t in range(1, STEPS + 1):
        draws = {name: jnp.asarray(z[f"step{t}/noise/{name}"], dtype) for name in (*NORMALS, "cql_random_action")}
        draws = {k: jnp.moveaxis(x, 1, 0) if x.ndim == 3 else x for k, x in draws.items()}  # actions first
        draws["next_policy_eps"] = draws["next_policy_eps"].reshape(-1, *draws["policy_eps"].shape)
        state, info = step(state, draws)
        out.append((state, info))
    return out


def cql_losses(z, at, info):
    """Pairs of our metrics and recorded numbers: sums and means over the two critics."""
    r = lambda key: z[f"{at}/{key}"]
    yield info["actor/loss"], r("loss/actor")
    yield info["actor/alpha"], r("value/alpha")
    yield 2 * info["critic/td"], r("loss/td_critic_0") + r("loss/td_critic_1")
    yield 2 * info["critic/penalty"], r("loss/cql_critic_0") + r("loss/cql_critic_1")
    yield info["critic/gap"], (r("value/gap1") + r("value/gap2")) / 2
    yield info["critic/q"], (r("value/q1").mean() + r("value/q2").mean()) / 2
    if f"{at}/loss/lagrange" in z:
        yield -info["critic/penalty"], r("loss/lagrange")
        yield info["critic/dual"], r("value/alpha_prime")


def close(state, net, theirs, rtol, atol):
    """One network of a learner's state is the recorded one, parameter by parameter."""
    ours = getattr(state, net)
    ours = ours if net == "target_critic" else ours.net
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=net)


@pytest.mark.parametrize("name", CQL_RUNS)
def test_cql_in_double_precision(name, monkeypatch):
    z = read(name)
    with jax.enable_x64(True):
        for t, (state, info) in enumerate(cql_updates(z, jnp.float64, monkeypatch), 1):
            for ours, theirs in cql_losses(z, f"f64/step{t}", info):
                np.testing.assert_allclose(ours, theirs, rtol=1e-7)
            for net, theirs in cql_nets(z, f"f64/step{t}/after", jnp.float64).items():
                # a step is 1e-4 or 3e-4 long: the floor is 1e-7 of the longer
                close(state, net, theirs, rtol=1e-7, atol=3e-11)


@pytest.mark.parametrize("name", CQL_RUNS)
def test_cql_in_single_precision(name, monkeypatch):
    z = read(name)
    out = cql_updates(z, jnp.float32, monkeypatch)
    for t, (_, info) in enumerate(out, 1):
        for ours, theirs in cql_losses(z, f"f64/step{t}", info):
            np.testing.assert_allclose(ours, theirs, rtol=3e-6)
    for net, theirs in cql_nets(z, f"f32/step{STEPS}/after", jnp.float32).items():
        close(out[-1][0], net, theirs, rtol=0, atol=3e-6)


# --------------------------------------------------------------------------------------------------------------- REDQ
#
# Draws are answered as with CQL, subsets too. Three critic steps of one update draw in a scan, so it runs op by op
# (`disable_jit`); the zoo holds both forms equal. The authors' log-density adds 1e-6 under the logarithm.

REDQ_RUNS = ["redq", "redq_utd3"]
LAYER = ("weight", "bias")
SUBSET, NEXT, POLICY = "subset_indices", "next_policy_eps", "policy_eps"


class EpsilonTanhNormal(TanhNormal):
    def sample_and_log_prob(self, key):
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        u = self.mean + self.std * noise
        density = normal_log_prob(u, self.mean, self.std)
        return jnp.tanh(u), density - jnp.log(1 - jnp.tanh(u) ** 2 + 1e-6).sum(-1)


class EpsilonActor(Module):
    """Trunk and two heads of the authors, as they are recorded."""

    net: Mlp

    def __call__(self, obs):
        mean, log_std = jnp.split(self.net(obs), 2, -1)
        return EpsilonTanhNormal(mean, jnp.exp(jnp.clip(log_std, -20, 2)))


def redq_nets(z, at, dtype):
    array = lambda key: jnp.asarray(z[f"{at}/{key}"], dtype)
    head = [jnp.concatenate([array(f"actor/{h}/{part}") for h in ("mean", "log_std")], -1) for part in LAYER]
    trunk = [Layer(*(array(f"actor/layer{i}/{part}") for part in LAYER)) for i in range(2)]
    members = lambda net: [perceptron(z, f"{at}/{net}/{j}", dtype) for j in range(int(z["hp/ensemble"]))]
    stacked = lambda net: jax.tree.map(lambda *x: jnp.stack(x), *members(net))
    return {
        "actor": EpsilonActor(Mlp((*trunk, Layer(*head)))),
        "critic": Critic(stacked("critic")),
        "target_critic": Critic(stacked("target_critic")),
        "log_alpha": array("log_alpha/value")[0],
    }


def redq_learner(z):
    hp = lambda key: z[f"hp/{key}"].item()
    assert (hp("log_std_min"), hp("log_std_max"), hp("tanh_eps")) == (-20, 2, 1e-6)
    return SAC(
        n_critics=hp("ensemble"),
        backup=RandomMin(hp("subset")),
        improve=Mean(),
        critic_updates=hp("utd"),
        lagged_critic=True,
        entropy_by_log=True,
        entropy_per_action=hp("target_entropy") / 2,
        discount=hp("discount"),
        target_rate=hp("tau"),
        lr=hp("learning_rate"),
    )


def redq_updates(z, dtype, monkeypatch):
    """The states with metrics after the recorded updates of the public `SAC.update`."""
    learner, nets = redq_learner(z), redq_nets(z, "init", dtype)
    state = sac_page.State(**{k: net if k == "target_critic" else trained(net) for k, net in nets.items()})
    columns = {"obs": "observations", "action": "actions", "reward": "rewards", "next_obs": "next_observations"}
    columns |= {"terminal": "terminals"}
    slices = ["batch"] if learner.slices == 1 else [f"batch/{j}" for j in range(learner.slices)]
    joined = {ours: np.concatenate([z[f"{at}/{theirs}"] for at in slices]) for ours, theirs in columns.items()}
    batch = make_batch(len(joined["reward"]), **joined)
    assert batch.obs.dtype == dtype
    left = []

    def answer(kind, shape):
        name, draw = left.pop(0)
        assert (name.rpartition("/")[2] == SUBSET) == (kind == "permutation"), name
        assert draw.shape == shape
        return draw

    def permutation(_key, n):
        drawn = answer("permutation", (int(z["hp/subset"]),))
        return jnp.asarray([*drawn, *(j for j in range(n) if j not in drawn)])

    monkeypatch.setattr(jax.random, "normal", lambda _key, shape, _dtype: answer("normal", shape))
    monkeypatch.setattr(jax.random, "permutation", permutation)
    out = []
    for t in range(1, (STEPS if learner.slices == 1 else 1) + 1):
        inner = [""] if learner.slices == 1 else [f"inner{j}/" for j in range(learner.slices)]
        names = [*(f"{i}{name}" for i in inner for name in (NEXT, SUBSET)), POLICY]
        kind = lambda name: dtype if name.endswith("eps") else int
        left[:] = [(name, np.asarray(z[f"step{t}/noise/{name}"], kind(name))) for name in names]
        with jax.disable_jit():
            state, info = learner.update(state, batch, jax.random.key(0))
        assert not left
        out.append((state, info))
    return out


def redq_losses(z, at, info):
    """Pairs of our metrics and recorded numbers; of several critic steps the means."""
    r = lambda key: z[f"{at}/{key}"]
    critic = [v for k, v in z.items() if k.startswith(f"{at}/loss/") and k.endswith("critic")]
    yield int(z["hp/ensemble"]) * info["critic/td"], np.mean(critic)
    yield info["actor/loss"], r("loss/actor")
    yield -info["actor/entropy"], r("value/log_pi").mean()
    yield info["actor/loss"] - info["actor/alpha"] * -info["actor/entropy"], -r("value/q_mean_new_action").mean()


@pytest.mark.parametrize("name", REDQ_RUNS)
def test_redq_in_double_precision(name, monkeypatch):
    z = read(name)
    with jax.enable_x64(True):
        for t, (state, info) in enumerate(redq_updates(z, jnp.float64, monkeypatch), 1):
            for ours, theirs in redq_losses(z, f"f64/step{t}", info):
                np.testing.assert_allclose(ours, theirs, rtol=1e-7)
            for net, theirs in redq_nets(z, f"f64/step{t}/after", jnp.float64).items():
                close(state, net, theirs, rtol=1e-7, atol=3e-11)  # a step is 3e-4 long: the floor is 1e-7 of it


@pytest.mark.parametrize("name", REDQ_RUNS)
def test_redq_in_single_precision(name, monkeypatch):
    z = read(name)
    out = redq_updates(z, jnp.float32, monkeypatch)
    for t, (_, info) in enumerate(out, 1):
        for ours, theirs in redq_losses(z, f"f64/step{t}", info):
            np.testing.assert_allclose(ours, theirs, rtol=3e-6, atol=3e-7)  # the mean of Q is near 0 in one run
    for net, theirs in redq_nets(z, f"f32/step{len(out)}/after", jnp.float32).items():
        close(out[-1][0], net, theirs, rtol=0, atol=3e-6)
