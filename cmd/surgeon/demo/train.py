#!/usr/bin/env python3
"""Makes the built-in demo model and its texts. Run by hand, once; the files it writes are kept in the repository.

usage: train.py TEXT [--out DIR] [--steps N]
       TEXT is Isaac Newton's Opticks as it comes with Go: $(go env GOROOT)/src/testdata/Isaac.Newton-Opticks.txt

Writes, into the folder of this script unless told otherwise:
  tokenizer.json       byte-level BPE, 1,024 tokens, token 0 is <|endoftext|>
  config.json          a Llama-type model: 4 blocks, D 128, F 384, 4 heads, 2 key/value heads of width 32, tied embeddings
  model.safetensors    its 918,656 weights in bfloat16, under the names of Hugging Face's LlamaForCausalLM
  calibration.txt      about 60 kB, sampled from the model at temperature 1
  heldout.txt          about 20 kB, sampled the same way with another seed
  reference.json       token ids, losses per window and a few logits of heldout.txt in float32 and float64, for tests

The texts are samples of the model and not of the book, so that the loss of the dense model on them is (nearly) its own entropy:
no other model of this vocabulary can be expected to do better, and whatever pruning loses shows at once.

Needs: torch, numpy, tokenizers, safetensors. With transformers installed the logits are also compared with LlamaForCausalLM.
Made with: Python 3.11.7, torch 2.15.0, numpy 2.4.6, tokenizers 0.23.3, safetensors 0.8.0, transformers 5.23.0. Seed 1730.
Took 2843 seconds on two cores, at low priority beside other work; at the 0.4 seconds per step of two idle cores it would be
about 12 minutes. Another processor or another version of torch gives other bits, and a model as good.

It printed: loss 3.067 on held-out documents of the book (best of 1,500 steps, at 1,400; with the stored weights too), 1.793 on the
training documents, 2.244 on calibration.txt and 2.182 on heldout.txt in windows of 256 (perplexity 9.43 and 8.86; 2.100 and 2.029
as the tokens were drawn); logits of LlamaForCausalLM within 1.4e-5 at a largest logit of 20, in float32.
"""
import argparse, json, math, os, platform, sys, time, unicodedata

import numpy as np
import tokenizers
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SEED = 1730  # the year of the edition
END = "<|endoftext|>"
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
    "vocab_size": 1024, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
    "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "initializer_range": 0.05,
    "bos_token_id": 0, "eos_token_id": 0, "use_cache": True,
}
T, BATCH = 256, 16         # window length in training, sampling and evaluation; windows per step
DROPOUT = 0.15             # on the embedding and on what each half block adds; training only
PEAK, FLOOR, WARMUP = 3e-3, 1e-4, 100  # learning rate: linear up, cosine down


# ---------------------------------------------------------------- text

def documents(path):
    """The book as a list of documents of some 700 bytes or more: whole paragraphs, each on one line, joined by blank lines.

    Lines are joined because with 1,024 tokens a word after a line break and the same word after a space would be different
    tokens. Tables and figures (indented or spaced out) are left out, and so are the transcribers' lines before the title."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    text = text[text.index("OPTICKS:"):]
    docs, current = [], []
    for paragraph in text.split("\n\n"):
        lines = [line for line in paragraph.split("\n") if line.strip()]
        if not lines or any(line.startswith("  ") or "   " in line.strip() or "|" in line or "Illustration" in line for line in lines):
            continue
        current.append(" ".join(line.strip() for line in lines))
        if sum(map(len, current)) >= 700:
            docs.append("\n\n".join(current))
            current = []
    if current:
        docs.append("\n\n".join(current))
    return docs


def train_tokenizer(docs):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(docs, trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"], special_tokens=[END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    assert tokenizer.get_vocab_size() == CONFIG["vocab_size"] and tokenizer.token_to_id(END) == 0
    return tokenizer


def stream(tokenizer, docs):
    """All documents as one row of ids, <|endoftext|> before each."""
    return torch.tensor([i for d in docs for i in [0] + tokenizer.encode(d).ids])


# ---------------------------------------------------------------- model
# Module names give the state dict the names of Hugging Face's checkpoint.

def rotary(length, dtype):
    """cos and sin, length × head_dim, the two halves alike. In float32 as Hugging Face computes them, in float64 exactly."""
    d = CONFIG["head_dim"]
    frequency = 1.0 / (CONFIG["rope_theta"] ** (torch.arange(0, d, 2, dtype=dtype) / d))
    angle = torch.outer(torch.arange(length, dtype=dtype), frequency)
    angle = torch.cat([angle, angle], dim=1)
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(CONFIG["hidden_size"]))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + CONFIG["rms_norm_eps"]))


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        D, d = CONFIG["hidden_size"], CONFIG["head_dim"]
        H, Hkv = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
        self.q_proj, self.k_proj, self.v_proj = linear(D, H * d), linear(D, Hkv * d), linear(D, Hkv * d)
        self.o_proj = linear(H * d, D)
        self.d, self.repeat = d, H // Hkv

    def forward(self, x, cos, sin):
        B, L, _ = x.shape
        q, k, v = (p(x).view(B, L, -1, self.d).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = k.repeat_interleave(self.repeat, 1), v.repeat_interleave(self.repeat, 1)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(o.transpose(1, 2).reshape(B, L, -1))


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        D, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
        self.gate_proj, self.up_proj, self.down_proj = linear(D, inner), linear(D, inner), linear(inner, D)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn, self.mlp = Attention(), MLP()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(), RMSNorm()

    def forward(self, x, cos, sin):
        x = x + F.dropout(self.self_attn(self.input_layernorm(x), cos, sin), DROPOUT, self.training)
        return x + F.dropout(self.mlp(self.post_attention_layernorm(x)), DROPOUT, self.training)


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(CONFIG["vocab_size"], CONFIG["hidden_size"])
        self.model.layers = nn.ModuleList(Block() for _ in range(CONFIG["num_hidden_layers"]))
        self.model.norm = RMSNorm()
        for name, p in self.named_parameters():
            if p.dim() == 2:
                # what a half block adds starts small, so that the sum of all 2·4 of them starts at the scale of one
                narrow = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=CONFIG["initializer_range"] / (math.sqrt(2 * CONFIG["num_hidden_layers"]) if narrow else 1))

    def forward(self, ids):
        x = F.dropout(self.model.embed_tokens(ids), DROPOUT, self.training)
        cos, sin = rotary(ids.shape[1], x.dtype)
        for block in self.model.layers:
            x = block(x, cos, sin)
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight)  # tied


# ---------------------------------------------------------------- training, evaluation

def window_losses(model, ids):
    """Mean next-token loss (T − 1 targets) of each non-overlapping window of T; the tail is dropped."""
    model.eval()
    out = []
    with torch.no_grad():
        for w in ids[:len(ids) // T * T].view(-1, T).split(16):
            logits = model(w)[:, :-1]
            loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), w[:, 1:].reshape(-1), reduction="none")
            out += loss.view(len(w), -1).mean(1).tolist()
    return out


def train(ids, held, steps):
    """AdamW with a cosine schedule. Keeps the weights of the best loss on the held-out documents."""
    torch.manual_seed(SEED)
    model, pick = Llama(), torch.Generator().manual_seed(SEED)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    opt = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.95))
    starts = (ids[:-T - 1] == 0).nonzero()[:, 0]  # document starts
    best, kept, running, began = math.inf, None, [], time.time()
    for step in range(steps):
        rate = PEAK * (step + 1) / WARMUP if step < WARMUP else FLOOR + (PEAK - FLOOR) * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP)))
        for group in opt.param_groups:
            group["lr"] = rate
        # a quarter of the windows begin at a document, as the samples will
        at = torch.randint(len(ids) - T - 1, (BATCH,), generator=pick)
        at[:BATCH // 4] = starts[torch.randint(len(starts), (BATCH // 4,), generator=pick)]
        w = torch.stack([ids[i:i + T + 1] for i in at])
        model.train()
        loss = F.cross_entropy(model(w[:, :-1]).reshape(-1, CONFIG["vocab_size"]), w[:, 1:].reshape(-1))
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        running.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            now = float(np.mean(window_losses(model, held)))
            print(f"step {step + 1:5d}  training loss {np.mean(running):.4f}  held-out documents {now:.4f}  {time.time() - began:.0f} s", flush=True)
            running = []
            if now < best:
                best, kept = now, {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(kept)
    return model.eval(), best


# ---------------------------------------------------------------- samples

def sample(model, count, generator):
    """count documents: from <|endoftext|>, one token after the other from the model's own distribution, until the next
    <|endoftext|> or a full window. Returns the id lists and the mean loss (nats) of the sampled tokens as they were drawn."""
    rows, spent, tokens = torch.zeros(count, 1, dtype=torch.long), 0.0, 0
    alive = torch.ones(count, dtype=torch.bool)
    with torch.no_grad():
        while rows.shape[1] < T and alive.any():
            logp = torch.log_softmax(model(rows)[:, -1].double(), -1)
            token = torch.multinomial(logp.exp(), 1, generator=generator)
            spent -= logp.gather(1, token)[alive].sum().item()
            tokens += int(alive.sum())
            alive &= token[:, 0] != 0
            rows = torch.cat([rows, token], 1)
    docs = []
    for row in rows.tolist():
        row = row[1:]
        docs.append(row[:row.index(0)] if 0 in row else row)
    return docs, spent / tokens


def sampled_text(model, tokenizer, size, seed):
    """Sampled documents joined by blank lines, until there are at least size bytes. Bytes that are no UTF-8 and control
    characters other than the line break are dropped."""
    generator, parts, dropped, entropy = torch.Generator().manual_seed(seed), [], 0, []
    while sum(len(p.encode()) + 2 for p in parts) < size:
        docs, h = sample(model, 32, generator)
        entropy.append(h)
        for ids in docs:
            raw = tokenizer.decode(ids)
            text = "".join(c for c in raw if c == "\n" or not (c == "\ufffd" or unicodedata.category(c).startswith("C")))
            dropped += len(raw) - len(text)
            if text.strip():
                parts.append(text.strip())
    text, used = "", 0
    while len(text.encode()) < size:
        text += parts[used] + "\n\n"
        used += 1
    text = text.rstrip("\n") + "\n"
    return text, f"{len(text.encode())} bytes, {used} documents, {dropped} characters dropped, {np.mean(entropy):.4f} nats per token as drawn"


# ---------------------------------------------------------------- checks

def compare_with_transformers(out, model, ids):
    try:
        from transformers import AutoTokenizer, LlamaForCausalLM
    except ImportError:
        return "transformers is not installed: not compared"
    theirs = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        a, b = model(ids), theirs(ids).logits
    with open(f"{out}/heldout.txt", encoding="utf-8") as f:
        same = AutoTokenizer.from_pretrained(out)(f.read(), add_special_tokens=False).input_ids[:T] == ids[0].tolist()
    return f"max |difference| of logits {float((a - b).abs().max()):.2e}, max |logit| {float(b.abs().max()):.2f}; same token ids: {same}"


def reference(model, ids):
    first = ids[:8 * T]
    doc = {
        "about": "heldout.txt tokenised once, no special tokens; windows of 256 do not overlap; loss is the mean over 255 targets, in nats; "
                 "float64 is float64 throughout (exact rotary tables), float32 is float32 throughout",
        "seed": SEED, "window": T, "tokens": len(ids), "ids": ids[:T].tolist(),
        "loss_float32": window_losses(model, first), "loss_heldout_float32": float(np.mean(window_losses(model, ids))),
    }
    model.double()
    doc["loss_float64"] = window_losses(model, first)
    doc["loss_heldout_float64"] = float(np.mean(window_losses(model, ids)))
    doc["perplexity_heldout"] = math.exp(doc["loss_heldout_float64"])
    with torch.no_grad():
        doc["logits_window0_last_position_float64"] = model(ids[None, :T])[0, -1, :32].tolist()
    model.float()
    return doc


def main():
    p = argparse.ArgumentParser()
    p.add_argument("text")
    p.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)))
    p.add_argument("--steps", type=int, default=1500)
    o = p.parse_args()
    began = time.time()
    torch.set_num_threads(2)
    os.makedirs(o.out, exist_ok=True)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, tokenizers {tokenizers.__version__}, seed {SEED}")

    docs = documents(o.text)
    held_docs = docs[7::16]
    train_docs = [d for i, d in enumerate(docs) if i % 16 != 7]
    tokenizer = train_tokenizer(train_docs)
    tokenizer.save(f"{o.out}/tokenizer.json")
    ids, held = stream(tokenizer, train_docs), stream(tokenizer, held_docs)
    print(f"{len(docs)} documents, {sum(len(d.encode()) for d in docs)} bytes; {len(ids)} tokens to train on, {len(held)} held out")

    model, best = train(ids, held, o.steps)
    with torch.no_grad():  # everything from here on sees the weights as they are stored
        for w in model.parameters():
            w.copy_(w.bfloat16().float())
    print(f"{sum(w.numel() for w in model.parameters())} weights; held-out documents: float32 {best:.4f}, bfloat16 {np.mean(window_losses(model, held)):.4f}, "
          f"training documents {np.mean(window_losses(model, ids)):.4f}")
    save_file({k: v.bfloat16().contiguous() for k, v in model.state_dict().items()}, f"{o.out}/model.safetensors", metadata={"format": "pt"})
    with open(f"{o.out}/config.json", "w") as f:
        json.dump(CONFIG, f, indent=2)
        f.write("\n")

    for name, size, seed in (("calibration", 60_000, SEED + 1), ("heldout", 20_000, SEED + 2)):
        text, said = sampled_text(model, tokenizer, size, seed)
        with open(f"{o.out}/{name}.txt", "w", encoding="utf-8", newline="") as f:
            f.write(text)
        ids = torch.tensor(tokenizer.encode(text).ids)
        losses = window_losses(model, ids)
        print(f"{name}.txt: {said}; {len(ids)} tokens, {len(losses)} windows of {T}: loss {np.mean(losses):.4f}, perplexity {math.exp(np.mean(losses)):.3f}")
    doc = reference(model, ids)
    with open(f"{o.out}/reference.json", "w") as f:
        json.dump(doc, f, indent=1)
        f.write("\n")
    print(f"reference: float32 {doc['loss_float32'][:3]}, float64 {doc['loss_float64'][:3]}")
    print("LlamaForCausalLM:", compare_with_transformers(o.out, model, ids[None, :T]))
    print(f"{time.time() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
