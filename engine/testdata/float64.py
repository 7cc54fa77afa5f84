#!/usr/bin/env python3
"""The tiny models of this folder once more, in float64 from the first embedding to the last pruned weight.

Writes FOLDER/tiny-*/float64.safetensors and float64.json from config.json, model.safetensors and golden.json that lie there,
and FOLDER/tiny-opt-post, a model with its layer norms after the residual sums. Plain PyTorch and autograd, no model library.

golden.* came from Hugging Face transformers with model.double(). That model still computes in float32: the rotary tables,
RMSNorm (LayerNorm not), the attention's softmax, and the loss. Golden is thus good to about 1e-6 in all that runs through the
model. Here those places are float64 too, but for the rotary tables: their values, rounded to float32, are part of the models.
With --float32-places the same lines use float32 where transformers does, nothing is written, and golden comes out again: logits and
losses bit for bit, A and G to 2e-15, costs and pruned weights of both shots to 1e-12.

usage: float64.py FOLDER [--float32-places]      needs torch, numpy, safetensors; transformers only for one more check

Names, in float64.safetensors (all float64; W is R x C with a bias as its last column, a has a constant 1 there):
  dense/logits0                        logits of the first sequence, T x V
  dense/<layer>/A, G                   (1/N) sum a aT, (1/N) sum g gT over all N tokens, dead ones included; g is the gradient
                                       of the SUM of a sequence's T-1 token losses at the layer's output
tiny-llama and tiny-opt only, two shots of rows and columns to 0.2 and 0.4, all sorted together, joint update, damping 0.01:
  structured<s>/<layer>/row_cost, col_cost   of shot s, by the factors measured before it; dead ones are 0
  structured<s>/<layer>/W                    after shot s
  obd/<layer>/row_cost, col_cost, element_cost   dense model, costs without correlation: 1/2 G_rr w A wT, 1/2 A_cc wT G w, 1/2 w^2 G_rr A_cc
float64.json: dense_loss (mean loss per sequence), structured (per shot: tau, removed, rows and cols kept, loss, predicted increase per
layer 1/2 tr(DT G D A) with undamped factors), dead (rows and cols dead in the dense
model), limited (removed rows and cols where no matrix loses more than a share, per ranking; dead_free: dead ones go first and
count against no share; golden has dead_free false, and a dead row 25 in layer 1's fc1 of tiny-opt).
"""
import json, math, os, sys
import numpy as np, torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

f32 = np.float32
SHOTS, DAMP, SHARE = (0.2, 0.4), 0.01, 0.2
PRUNED = ("tiny-llama", "tiny-opt")
DENSE = PRUNED + ("tiny-llama3", "tiny-mistral", "tiny-qwen2", "tiny-qwen3", "tiny-opt-post")


# ---- forward

def frequencies(rope, dim):
    """theta_j in radians per token, each step rounded to float32"""
    out = []
    for j in range(dim // 2):
        theta = f32(1) / f32(float(rope["rope_theta"]) ** float(f32(2 * j) / f32(dim)))
        if rope["rope_type"] == "linear":
            theta = theta / f32(rope["factor"])
        elif rope["rope_type"] == "llama3":
            factor, low, high = (f32(rope[k]) for k in ("factor", "low_freq_factor", "high_freq_factor"))
            original = f32(rope["original_max_position_embeddings"]); wavelength = f32(2 * math.pi) / theta
            if wavelength > original / low:
                theta = theta / factor
            elif not wavelength < original / high:
                smooth = (original / wavelength - low) / (high - low)
                theta = (f32(1) - smooth) * theta / factor + smooth * theta
        elif rope["rope_type"] != "default":
            raise ValueError(f"rope_type {rope['rope_type']} is not implemented")
        assert theta.dtype == f32
        out.append(theta)
    return out


def frequencies_torch(rope, dim):
    """the same with PyTorch's float32 operations in the order of transformers: 2 pi / f is there 2 pi times the rounded 1 / f"""
    f = 1.0 / (rope["rope_theta"] ** (torch.arange(0, dim, 2).float() / dim))
    if rope["rope_type"] == "default": return f
    assert rope["rope_type"] == "llama3"
    low, high, old = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    w = 2 * math.pi / f; g = torch.where(w > old / low, f / rope["factor"], f)
    smooth = (old / w - low) / (high - low)
    return torch.where(~(w < old / high) & ~(w > old / low), (1 - smooth) * g / rope["factor"] + smooth * g, g)


def rotary(rope, dim, T, places):
    """cos and sin, T x dim, each pair's value twice"""
    if places:
        angle = torch.arange(T).float()[:, None] * frequencies_torch(rope, dim); c, s = angle.cos().double(), angle.sin().double()
    else:
        angle = [[float(f32(p) * t) for t in frequencies(rope, dim)] for p in range(T)]
        c, s = (torch.tensor([[float(f32(fn(x))) for x in row] for row in angle], dtype=torch.float64) for fn in (math.cos, math.sin))
    return torch.cat([c, c], 1), torch.cat([s, s], 1)


class Model:
    """float64 weights by their checkpoint names, and a forward pass that keeps input and output of every pruned layer"""

    def __init__(self, folder, places):
        self.cfg = json.load(open(f"{folder}/config.json")); self.names = json.load(open(f"{folder}/golden.json"))["layers"]
        self.w = {k: v.double() for k, v in load_file(f"{folder}/model.safetensors").items()}
        self.places = places  # float32 where transformers has it
        self.seen = {}        # layer: (input, output) of the last forward pass

    def linear(self, x, name):
        y = F.linear(x, self.w[name + ".weight"], self.w.get(name + ".bias"))
        if name in self.names: self.seen[name] = (x, y)
        return y

    def rms(self, x, name):
        y = x.float() if self.places else x
        return self.w[name + ".weight"] * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.cfg["rms_norm_eps"])).double()

    def layernorm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.w[name + ".weight"], self.w[name + ".bias"], 1e-5)

    def attention(self, q, k, v, scale, window=None):
        """q: heads x T x d. Position i sees the positions j with i - window < j <= i"""
        T = q.shape[1]; i, j = torch.arange(T)[:, None], torch.arange(T)
        hidden = (j > i) | (j <= i - (window or T))
        p = (q @ k.transpose(1, 2) * scale).masked_fill(hidden, -math.inf)
        p = torch.softmax(p, -1, dtype=torch.float32 if self.places else torch.float64).double()
        return (p @ v).transpose(0, 1).reshape(T, -1)

    def forward(self, ids):
        """logits T x V. Gradients start at the embedding, so that backward() reaches every kept output"""
        self.seen = {}
        x = (self.opt if self.cfg["model_type"] == "opt" else self.llama)(ids)
        head = self.w.get("lm_head.weight")
        if self.cfg["tie_word_embeddings"]: head = self.w["model.decoder.embed_tokens.weight" if self.cfg["model_type"] == "opt" else "model.embed_tokens.weight"]
        return F.linear(x, head)

    def llama(self, ids):
        c = self.cfg; H, K = c["num_attention_heads"], c["num_key_value_heads"]; d = c.get("head_dim") or c["hidden_size"] // H
        cos, sin = rotary(c["rope_parameters"], d, len(ids), self.places)
        turn = lambda x: x * cos + torch.cat([-x[..., d // 2:], x[..., :d // 2]], -1) * sin
        assert c["hidden_act"] == "silu"
        x = self.w["model.embed_tokens.weight"][ids].requires_grad_()
        for l in range(c["num_hidden_layers"]):
            p = f"model.layers.{l}."; h = self.rms(x, p + "input_layernorm")
            q, k, v = (self.linear(h, p + f"self_attn.{n}_proj").view(len(ids), -1, d) for n in "qkv")
            if c["model_type"] == "qwen3": q, k = self.rms(q, p + "self_attn.q_norm"), self.rms(k, p + "self_attn.k_norm")
            q, k, v = (t.transpose(0, 1) for t in (q, k, v)); q, k = turn(q), turn(k)
            k, v = k.repeat_interleave(H // K, 0), v.repeat_interleave(H // K, 0)  # query head h reads key/value head h // (H/K)
            x = x + self.linear(self.attention(q, k, v, d ** -0.5, c["sliding_window"] if c["model_type"] == "mistral" else None), p + "self_attn.o_proj")
            h = self.rms(x, p + "post_attention_layernorm")
            x = x + self.linear(F.silu(self.linear(h, p + "mlp.gate_proj")) * self.linear(h, p + "mlp.up_proj"), p + "mlp.down_proj")
        return self.rms(x, "model.norm")

    def opt(self, ids):
        c = self.cfg; d = c["hidden_size"] // c["num_attention_heads"]; first = c["do_layer_norm_before"]
        assert c["word_embed_proj_dim"] == c["hidden_size"] and c["activation_function"] == "relu"
        x = (self.w["model.decoder.embed_tokens.weight"][ids] + self.w["model.decoder.embed_positions.weight"][2:2 + len(ids)]).requires_grad_()
        for l in range(c["num_hidden_layers"]):
            p = f"model.decoder.layers.{l}."; norm = p + "self_attn_layer_norm"
            h = self.layernorm(x, norm) if first else x
            q, k, v = (self.linear(h, p + f"self_attn.{n}_proj") * (d ** -0.5 if n == "q" else 1) for n in "qkv")
            q, k, v = (t.view(len(ids), -1, d).transpose(0, 1) for t in (q, k, v))
            x = x + self.linear(self.attention(q, k, v, 1.0), p + "self_attn.out_proj")
            if not first: x = self.layernorm(x, norm)
            norm = p + "final_layer_norm"
            h = self.layernorm(x, norm) if first else x
            x = x + self.linear(F.relu(self.linear(h, p + "fc1")), p + "fc2")
            if not first: x = self.layernorm(x, norm)
        return self.layernorm(x, "model.decoder.final_layer_norm") if first else x

    def loss(self, ids):
        """sum of the T-1 next-token losses"""
        z = self.forward(ids)
        if self.places: return F.cross_entropy(z[:-1].float(), ids[1:]) * (len(ids) - 1)
        return (torch.logsumexp(z[:-1], 1) - z[:-1].gather(1, ids[1:, None])[:, 0]).sum()

    def losses(self, seqs):
        """mean losses"""
        with torch.no_grad():
            if self.places: return [F.cross_entropy(self.forward(s)[:-1].float(), s[1:]).item() for s in seqs]  # the mean is float32 too
            return [self.loss(s).item() / (len(s) - 1) for s in seqs]

    def factors(self, seqs):
        """layer: (A, G)"""
        A, G, N = {n: 0 for n in self.names}, {n: 0 for n in self.names}, sum(map(len, seqs))
        for s in seqs:
            l = self.loss(s); kept = dict(self.seen)
            for (n, (x, y)), g in zip(kept.items(), torch.autograd.grad(l, [y for _, y in kept.values()])):
                a = x.detach()
                if n + ".bias" in self.w: a = torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], 1)
                A[n], G[n] = A[n] + a.T @ a / N, G[n] + g.T @ g / N
        return {n: (A[n], G[n]) for n in self.names}

    def weight(self, n):
        b = self.w.get(n + ".bias"); return self.w[n + ".weight"].clone() if b is None else torch.cat([self.w[n + ".weight"], b[:, None]], 1)

    def put(self, n, W):
        if n + ".bias" in self.w: self.w[n + ".bias"] = W[:, -1].clone(); W = W[:, :-1]
        self.w[n + ".weight"] = W.clone()


# ---- costs, threshold, update

class System:
    """one layer: weights and factors over the alive rows r and columns c"""

    def __init__(self, W, A, G):
        self.full, self.A, self.G = W, A, G
        self.r = (W != 0).any(1) & (G.diagonal() != 0); self.c = (W != 0).any(0) & (A.diagonal() != 0)
        damp = lambda M: M + DAMP * M.diagonal().mean() * torch.eye(len(M), dtype=M.dtype)
        self.W, self.Ad, self.Gd = W[self.r][:, self.c], damp(A[self.c][:, self.c]), damp(G[self.r][:, self.r])

    def numerators(self):
        """w_r A w_rT and w_cT G w_c, undamped. A dead row or column counts in neither"""
        A, G = self.A[self.c][:, self.c], self.G[self.r][:, self.r]
        return torch.einsum("rc,cd,rd->r", self.W, A, self.W), torch.einsum("rc,rs,sc->c", self.W, G, self.W)

    def spread(self, rows, cols):
        R, C = torch.zeros(len(self.r), dtype=rows.dtype), torch.zeros(len(self.c), dtype=rows.dtype)
        R[self.r], C[self.c] = rows, cols; return R, C

    def costs(self):
        r, c = self.numerators(); ginv, ainv = torch.cholesky_inverse(torch.linalg.cholesky(self.Gd)), torch.cholesky_inverse(torch.linalg.cholesky(self.Ad))
        return self.spread(r / 2 / ginv.diagonal(), c / 2 / ainv.diagonal())

    def obd(self):
        r, c = self.numerators(); return self.spread(r / 2 * self.G.diagonal()[self.r], c / 2 * self.A.diagonal()[self.c])

    def per_weight(self, costs):
        return costs[0] / int(self.c.sum()), costs[1] / int(self.r.sum())

    def joint(self, rows, cols):
        """the weights after all rows but `rows` and all columns but `cols` (both boolean) have gone:
        V = (G'_SS)^-1 G'_S: W A'_:T (A'_TT)^-1"""
        assert not (rows & ~self.r).any() and not (cols & ~self.c).any(), "a dead row or column is kept"
        S, T = rows[self.r], cols[self.c]
        V = torch.cholesky_solve(self.Gd[S] @ self.W @ self.Ad[:, T], torch.linalg.cholesky(self.Gd[S][:, S]))
        V = torch.cholesky_solve(V.T, torch.linalg.cholesky(self.Ad[T][:, T])).T
        out = torch.zeros_like(self.full); out[rows.nonzero(), cols.nonzero().T] = V; return out

    def predicted(self, V):
        D = V - self.full; return torch.trace(D.T @ self.G @ D @ self.A).item() / 2


def threshold(costs, target):
    """largest tau for which removing every cost <= tau takes at most target of all weights; by trying all of them"""
    limit = int(target * sum(len(r) * len(c) for r, c in costs)); tau = -1.0
    values = sorted({float(v) for pair in costs for x in pair for v in x})
    for k, v in enumerate(values):
        if sum(len(r) * len(c) - int((r > v).sum()) * int((c > v).sum()) for r, c in costs) > limit: return tau, values[k]
        tau = v
    return tau, math.inf


def limited(costs, dead, target, share, free):
    """in the order (cost, layer, rows before columns, index) take what neither takes more than a share of a matrix's rows or columns;
    stop before the target would be exceeded. Removed weights, and removed (rows, cols) per layer.
    dead[l][kind] are indices dead before. free: they go first, count against no share, and shares are of the alive ones; otherwise
    they are rows and columns like others, of cost 0, and shares are of all"""
    order = sorted((float(v), l, kind, i) for l, pair in enumerate(costs) for kind in (0, 1) for i, v in enumerate(pair[kind]))
    size = [(len(r), len(c)) for r, c in costs]; limit = int(target * sum(R * C for R, C in size))
    gone = [tuple(list(x) if free else [] for x in d) for d in dead]; fixed = [tuple(len(x) for x in g) for g in gone]
    count = lambda l: math.prod(size[l]) - math.prod(size[l][k] - len(gone[l][k]) for k in (0, 1))
    total = sum(count(l) for l in range(len(size)))
    for _, l, kind, i in order:
        taken = len(gone[l][kind]) - fixed[l][kind]
        if free and i in dead[l][kind] or taken + 1 > int(share * (size[l][kind] - fixed[l][kind])): continue
        before = count(l); gone[l][kind].append(i); step = count(l) - before
        if total + step > limit: gone[l][kind].pop(); break
        total += step
    return total, [(sorted(r), sorted(c)) for r, c in gone]


def prune(m, seqs, K, arr, doc):
    """two shots to SHOTS, factors K before the first and measured again before the second; then selections on the dense model"""
    dense = {n: m.weight(n) for n in m.names}; total = sum(W.numel() for W in dense.values()); doc["structured"] = []
    for shot, target in enumerate(SHOTS, 1):
        if shot > 1: K = m.factors(seqs)
        systems = {n: System(m.weight(n), *K[n]) for n in m.names}; costs = [s.costs() for s in systems.values()]
        if shot == 1: first, first_costs = systems, costs
        tau, after = threshold(costs, target); rec = {"target": target, "tau": tau, "next_cost": after, "layers": {}}
        for (n, s), (r, c) in zip(systems.items(), costs):
            V = s.joint(r > tau, c > tau); key = f"structured{shot}/{n}/"
            arr[key + "row_cost"], arr[key + "col_cost"], arr[key + "W"] = r, c, V
            rec["layers"][n] = {"rows": (r > tau).nonzero()[:, 0].tolist(), "cols": (c > tau).nonzero()[:, 0].tolist(), "predicted": s.predicted(V)}
            m.put(n, V)
        rec["removed"] = 1 - sum(len(x["rows"]) * len(x["cols"]) for x in rec["layers"].values()) / total
        rec["predicted"] = math.fsum(x["predicted"] for x in rec["layers"].values()); rec["loss"] = m.losses(seqs); doc["structured"].append(rec)
    for n, W in dense.items(): m.put(n, W)
    dead = [[(~x).nonzero()[:, 0].tolist() for x in (s.r, s.c)] for s in first.values()]
    doc["dead"] = {n: {"rows": r, "cols": c} for n, (r, c) in zip(m.names, dead) if r or c}
    doc["limited"] = []; obd = [s.obd() for s in first.values()]
    for ranking, costs in (("cost", first_costs), ("cost_per_weight", [s.per_weight(c) for s, c in zip(first.values(), first_costs)]),
                           ("obd", obd), ("obd_per_weight", [s.per_weight(c) for s, c in zip(first.values(), obd)])):
        for free in (True, False):
            gone, out = limited(costs, dead, SHOTS[0], SHARE, free)
            doc["limited"].append({"ranking": ranking, "dead_free": free, "target": SHOTS[0], "share": SHARE, "weights": gone,
                                   "removed": {n: {"rows": r, "cols": c} for n, (r, c) in zip(m.names, out)}})
    for (n, s), (r, c) in zip(first.items(), obd):
        arr[f"obd/{n}/row_cost"], arr[f"obd/{n}/col_cost"] = r, c
        arr[f"obd/{n}/element_cost"] = s.full ** 2 * s.G.diagonal()[:, None] * s.A.diagonal() / 2


# ---- one more model, and the checks

def make_post(folder, like):
    """tiny-opt with the layer norms after the residual sums: other weights, scales of rows and columns spread as in the golden models"""
    cfg = json.load(open(f"{like}/config.json")); old = load_file(f"{like}/model.safetensors"); cfg["do_layer_norm_before"] = False
    g = torch.Generator().manual_seed(17); w = {}
    for n in sorted(old):
        if n.startswith("model.decoder.final_layer_norm"): continue
        x = torch.randn(old[n].shape, generator=g)
        if "norm.weight" in n: w[n] = 1 + 0.2 * x
        elif x.dim() == 1: w[n] = 0.1 * x
        else: w[n] = 0.25 * x * (0.3 + 1.4 * torch.rand(len(x), 1, generator=g)) * (0.3 + 1.4 * torch.rand(1, x.shape[1], generator=g))
    os.makedirs(folder, exist_ok=True); save_file(w, f"{folder}/model.safetensors", {"format": "pt"})
    json.dump(cfg, open(f"{folder}/config.json", "w"), indent=2)
    seqs = torch.randint(3, cfg["vocab_size"], (8, 24), generator=torch.Generator().manual_seed(5))
    json.dump({"tokens": seqs.tolist(), "layers": json.load(open(f"{like}/golden.json"))["layers"]}, open(f"{folder}/golden.json", "w"))


def apart(x, y): return ((x - y).abs().max() / y.abs().max()).item()


def compare(name, arr, doc, gold, gdoc):
    """prints the largest relative differences from golden, |x - golden| / max|golden| per array"""
    worst = lambda part: max(apart(arr[k], gold[part(k)]) for k in arr if part(k) in gold)
    only = lambda pre, end: lambda k: k if k.startswith(pre) and k.endswith(end) else None
    rel = lambda p, q: max(abs(a - b) / b for a, b in zip(p, q))
    same = torch.equal(arr["dense/logits0"], gold["dense/logits0"])
    print(f"  against golden: logits {worst(only('dense', 'logits0')):.1e}{' (bit for bit)' if same else ''} loss {rel(doc['dense_loss'], gdoc['dense_loss']):.1e}"
          f" A {worst(only('dense', '/A')):.1e} G {worst(only('dense', '/G')):.1e}")
    if "structured" not in doc: return
    print(f"  costs of shot 1 {worst(lambda k: k.replace('structured1', 'dense') if 'structured1' in k and 'cost' in k else None):.1e}")
    for s, (x, y) in enumerate(zip(doc["structured"], gdoc["structured"]), 1):
        sets = all({k: x["layers"][n][k] for k in ("rows", "cols")} == v for n, v in y["layers"].items()) and x["layers"].keys() == y["layers"].keys()
        print(f"  shot {s}: kept sets {'equal' if sets else 'DIFFER'}, tau {abs(x['tau'] / y['tau'] - 1):.1e}, next cost {x['next_cost'] / x['tau'] - 1:.1e} above tau,"
              f" W {worst(only(f'structured{s}', '/W')):.1e}, loss {rel(x['loss'], y['loss']):.1e}, removed {x['removed']:.4f},"
              f" mean loss {np.mean(x['loss']):.6f} (dense {np.mean(doc['dense_loss']):.6f}), predicted increase {x['predicted']:.6f}")
        if not sets: raise SystemExit("the kept sets differ from golden's")
    by = {(x["ranking"], x["dead_free"]): x for x in doc["limited"]}; x = by["cost", False]
    if (x["removed"], x["weights"]) != (gdoc["limited"]["removed"], gdoc["limited"]["weights"]): raise SystemExit("the limited selection differs from golden's")
    alone = [n for n in x["removed"] if x["removed"][n] != by["cost", True]["removed"][n]]
    print(f"  limited selection equal; dead in the dense model: {doc['dead'] or 'none'}; layers where dead ones going free changes it: {alone or 'none'}")


def against_transformers(name, folder, m, seqs, arr):
    """transformers as it is, and with float64 put into its three float32 places before the loss; factors by hooks in the second"""
    try: from transformers import AutoModelForCausalLM
    except ImportError: return print("  transformers is not installed: not compared")
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    with torch.no_grad(): z = hf(seqs[0][None], use_cache=False).logits[0]
    print(f"  against transformers now: logits {apart(arr['dense/logits0'], z):.1e}", end="")
    softmax, A, G, N = F.softmax, {n: 0 for n in m.names}, {n: 0 for n in m.names}, sum(map(len, seqs))
    for n, x in hf.named_modules():
        kind = type(x).__name__
        if kind.endswith("RMSNorm"): x.forward = lambda h, x=x: F.rms_norm(h, h.shape[-1:], x.weight, x.variance_epsilon)
        if kind.endswith("RotaryEmbedding"): x.forward = lambda h, position_ids, **_: tuple(t[None] for t in rotary(m.cfg["rope_parameters"], m.cfg.get("head_dim") or m.cfg["hidden_size"] // m.cfg["num_attention_heads"], h.shape[1], False))
        if n in A:
            def keep(x, i, o, n=n):
                a = i[0].detach().reshape(-1, i[0].shape[-1])
                if x.bias is not None: a = F.pad(a, (0, 1), value=1.0)
                A[n] = A[n] + a.T @ a / N
                def gradient(g): g = g.reshape(-1, g.shape[-1]); G[n] = G[n] + g.T @ g / N
                o.register_hook(gradient)
            x.register_forward_hook(keep)
    F.softmax = lambda x, dim, dtype=None: softmax(x, dim)
    try:
        for k, s in enumerate(seqs):
            z = hf(s[None], use_cache=False).logits[0]
            if k == 0: d = apart(arr["dense/logits0"], z.detach())
            F.cross_entropy(z[:-1], s[1:], reduction="sum").backward()
    finally: F.softmax = softmax
    print(f"; with its norm, softmax, tables, loss in float64: logits {d:.1e} A {max(apart(arr[f'dense/{n}/A'], A[n]) for n in A):.1e} G {max(apart(arr[f'dense/{n}/G'], G[n]) for n in G):.1e}")


def main():
    args = [a for a in sys.argv[1:] if a != "--float32-places"]; places = "--float32-places" in sys.argv
    if len(args) != 1: raise SystemExit("usage: float64.py FOLDER [--float32-places]")
    root = args[0]; torch.set_num_threads(2 if places else 1)  # golden was made with two; float32 kernels of the backward differ by that
    if not os.path.exists(f"{root}/tiny-opt-post/model.safetensors"): make_post(f"{root}/tiny-opt-post", f"{root}/tiny-opt")
    for name in DENSE:
        folder = f"{root}/{name}"; m = Model(folder, places); gdoc = json.load(open(f"{folder}/golden.json"))
        seqs = [torch.tensor(s) for s in gdoc["tokens"]]; arr = {}
        with torch.no_grad(): arr["dense/logits0"] = m.forward(seqs[0])
        K = m.factors(seqs); doc = {"damp_g": DAMP, "damp_a": DAMP, "dense_loss": m.losses(seqs)}
        for n in m.names: arr[f"dense/{n}/A"], arr[f"dense/{n}/G"] = K[n]
        if name in PRUNED: prune(m, seqs, K, arr, doc)
        assert all(v.dtype == torch.float64 and v.isfinite().all() for v in arr.values())
        print(name, f"mean loss {np.mean(doc['dense_loss']):.9f}")
        if os.path.exists(f"{folder}/golden.safetensors"): compare(name, arr, doc, load_file(f"{folder}/golden.safetensors"), gdoc)
        if places: continue
        against_transformers(name, folder, m, seqs, arr)
        save_file({k: arr[k].contiguous() for k in sorted(arr)}, f"{folder}/float64.safetensors")
        with open(f"{folder}/float64.json", "w") as f: json.dump(doc, f); f.write("\n")


if __name__ == "__main__": main()
