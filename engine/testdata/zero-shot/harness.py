#!/usr/bin/env python3
"""Multiple-choice items as EleutherAI's lm-evaluation-harness scores them: the truth for engine/tasks and engine/zeroshot.go.

Writes, beside itself: spaced.jsonl and bare.jsonl, tokenizer-plain.json and tokenizer-bos.json with their tokenizer-*-config.json,
and harness.json: for each case and file the log-likelihood of every choice, and acc, acc_norm and their standard errors. Everything is
what the harness's own simple_evaluate returns for a task of its output type multiple_choice: of spaced.jsonl, where every choice begins
with a space, it is given the choices without it and its default target_delimiter, " "; of bare.jsonl the choices as they are and "". In
the float64 cases the harness's model is replaced by the forward pass of ../float64.py, since transformers' model.double() keeps float32
in places.

usage: harness.py       needs lm_eval, torch, transformers, datasets, safetensors. Made with lm_eval 0.4.13, transformers 5.24.0, torch 2.15.0
"""
import json, os, random, shutil, sys, tempfile
os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
here = os.path.dirname(os.path.abspath(__file__)); sys.path.insert(0, os.path.dirname(here))

MERGES = ["t h", "th e", "Ġ t", "Ġt h", "Ġth e", "i n", "in g", "a n", "an d", "Ġ a", "Ġa n", "Ġan d", "o n", "e r", "Ġ Ġ", "s t", "Ã ©",
          "r e", "Ġ w", "o u", "l l", "e n", "Ċ Ċ", "1 2"]


def tokenizer(bos):
    """128 tokens: the bytes of printable ASCII, of é, of some white space; <s>, </s>; and 24 merges. With bos, <s> begins every text"""
    tokens = ["Ġ", "Ċ"] + [chr(c) for c in range(33, 127)] + ["Ã", "©", "Â", "ł", "Ĝ", "ĉ", "<s>", "</s>"] + [m.replace(" ", "") for m in MERGES]
    assert len(tokens) == len(set(tokens)) == 128
    vocab = {t: i for i, t in enumerate(tokens)}
    added = [dict(id=vocab[t], content=t, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True) for t in ("<s>", "</s>")]
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}; a, b = ({"Sequence": {"id": x, "type_id": i}} for i, x in enumerate("AB"))
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    return dict(version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None, pre_tokenizer=level, decoder=level,
                post_processor=dict(type="TemplateProcessing", single=[begin, a], pair=[begin, a, b],
                                    special_tokens={"<s>": dict(id="<s>", ids=[vocab["<s>"]], tokens=["<s>"])}) if bos else None,
                model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None,
                           fuse_unk=False, byte_fallback=False, ignore_merges=False, vocab=vocab, merges=[m.split(" ") for m in MERGES]))


def items():
    yield dict(context="The water is", choices=[" cold", " and the other thing", " on"], answer=0)
    yield dict(context="no space between the", choices=["re", "m", "y and then"], answer=1)  # "there" is cut otherwise than "the"
    yield dict(context="one space behind ", choices=["the", " the", "  the"], answer=2)      # moved to the choice
    yield dict(context="more of it \t\n\n", choices=["the", "x"], answer=0)
    yield dict(context="a space that does not break\u00a0", choices=["the", "caf\u00e9"], answer=1)
    yield dict(context="a separator\u001c", choices=["the", "on"], answer=1)                # white space in Python, not in Unicode's list
    yield dict(context="", choices=["the", " the", "e"], answer=2)                           # the prefix token stands for the context
    yield dict(context="", choices=["<s>the", "</s>the", "the"], answer=0)                   # a choice that begins with it
    yield dict(context="<s>begins with a token", choices=[" in", " th"], answer=1)
    yield dict(context="</s>begins with the other", choices=[" in", " th"], answer=0)
    yield dict(context="the same twice", choices=[" e", " x", " x", " e"], answer=0, comment="unknown fields are ignored")
    yield dict(context="characters, not bytes:", choices=["\u00e9", "ee", "\u00e9\u00e9\u00e9", "eeeeee"], answer=2)
    yield dict(context="%" * 100, choices=["&", "&&"], answer=0)                             # longer than the model's 64 positions
    yield dict(context="%" * 63, choices=["&", "&&", "&&&"], answer=1)                       # 64, 65, 66 tokens
    yield dict(context="%" * 90, choices=["&" * 64, "&" * 63], answer=1)                     # one token of the context stays
    r = random.Random(7)
    words = "the and then other water in ing on no stone stall 12 1212 well, a? (re) caf\u00e9 under wind w".split()
    for _ in range(25):
        say = lambda n: " ".join(r.choice(words) for _ in range(n))
        n = r.randint(2, 5)
        yield dict(context=say(r.randint(1, 30)), choices=[" " + say(r.randint(1, 4)) for _ in range(n)], answer=r.randrange(n))


FILES = {"spaced": [i for i in items() if all(c[0] == " " for c in i["choices"])], "bare": [i for i in items() if any(c[0] != " " for c in i["choices"])]}


def evaluate(model, tok, double, batch):
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM
    case = dict(model=model, tokenizer=tok, precision="float64" if double else "float32", files={})
    with tempfile.TemporaryDirectory() as dir:
        for f in ("config.json", "model.safetensors"): shutil.copy(f"{here}/../{model}/{f}", dir)
        shutil.copy(f"{here}/tokenizer-{tok}.json", f"{dir}/tokenizer.json"); shutil.copy(f"{here}/tokenizer-{tok}-config.json", f"{dir}/tokenizer_config.json")
        lm = HFLM(pretrained=dir, dtype="float32", device="cpu", batch_size=batch)
        if double:
            import float64
            exact = float64.Model(f"{here}/../{model}", False)
            lm._model_call = lambda ids, **_: torch.stack([exact.forward(row).detach() for row in ids])
        for name, docs in FILES.items():
            delimiter = " " if name == "spaced" else ""
            with open(f"{dir}/{name}.jsonl", "w") as f:
                for d in docs: f.write(json.dumps(dict(context=d["context"], choices=[c[len(delimiter):] for c in d["choices"]], answer=d["answer"])) + "\n")
            task = ConfigurableTask(config=dict(task=name, dataset_path="json", dataset_kwargs=dict(data_files=dict(test=f"{dir}/{name}.jsonl"), cache_dir=f"{dir}/cache"),
                test_split="test", output_type="multiple_choice", doc_to_text="context", doc_to_choice="choices", doc_to_target="answer", target_delimiter=delimiter))
            out = simple_evaluate(model=lm, tasks=[task], log_samples=True, bootstrap_iters=10)
            samples = sorted(out["samples"][name], key=lambda s: s["doc_id"]); got = out["results"][name]
            for s, d in zip(samples, docs, strict=True):  # that the harness was asked what is in the file
                assert [tuple(a) for a in s["arguments"]] == [(d["context"], c) for c in d["choices"]], (s["arguments"], d)
            case["files"][name] = dict(loglikelihoods=[[r[0] for r in s["filtered_resps"]] for s in samples],
                right=[s["acc"] for s in samples], right_norm=[s["acc_norm"] for s in samples],
                acc=got["acc,none"], acc_stderr=got["acc_stderr,none"], acc_norm=got["acc_norm,none"], acc_norm_stderr=got["acc_norm_stderr,none"])
    return case


if __name__ == "__main__":
    for name, docs in FILES.items():
        with open(f"{here}/{name}.jsonl", "w") as f:
            for d in docs: f.write(json.dumps(d, ensure_ascii=False) + "\n")
    for name, config in (("plain", dict(bos_token=None, eos_token="</s>")), ("bos", dict(bos_token=dict(__type="AddedToken", content="<s>", lstrip=False, normalized=False, rstrip=False, single_word=False), eos_token="</s>"))):
        json.dump(tokenizer(name == "bos"), open(f"{here}/tokenizer-{name}.json", "w"), ensure_ascii=False)
        json.dump(dict(tokenizer_class="PreTrainedTokenizerFast", clean_up_tokenization_spaces=False, **config), open(f"{here}/tokenizer-{name}-config.json", "w"))
    cases = [evaluate(m, t, d, b) for m, t, d, b in (("tiny-llama", "plain", True, 1), ("tiny-llama", "bos", True, 1), ("tiny-opt", "bos", True, 1), ("tiny-llama", "bos", False, 4))]
    with open(f"{here}/harness.json", "w") as f: json.dump(cases, f); f.write("\n")
    for c in cases:
        for name, f in c["files"].items(): print(c["model"], c["tokenizer"], c["precision"], name, {k: v for k, v in f.items() if k.startswith("acc")})
