#!/bin/sh
# Prunes a real model on the beginning of a text and measures perplexity on its rest, dense and pruned.
# usage: smollm2.sh SURGEON MODEL TEXT
# Environment: TARGET SHOTS SAMPLES LENGTH UPDATES (a list of joint, sum, none) EXTRA (more options for prune) WINDOWS (of the evaluation)
set -eu
surgeon=$1 model=$2 text=$3
target=${TARGET:-0.2} shots=${SHOTS:-5} samples=${SAMPLES:-48} length=${LENGTH:-512} updates=${UPDATES:-joint} windows=${WINDOWS:-0}
size=$(wc -c <"$text")
# The first 800,000 bytes calibrate. Of a text that is not clearly longer than that it is the first 70 %.
first=800000
[ "$size" -gt 1000000 ] || first=$((size * 7 / 10))
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
perplexity() { "$surgeon" eval "$1" --text "$text" --text-skip "$first" --length "$length" --windows "$windows" --json | python3 -c '
import json, sys
e = json.load(sys.stdin)["texts"][0]
print("%.3f (%d windows of %d)" % (e["perplexity"], e["windows"], e["window_length"]))'; }
echo "$model, calibration: first $first of $size bytes of $(basename "$text"), $samples windows of $length; $(nproc) cores"
echo "dense: perplexity on the rest $(perplexity "$model")"
for update in $updates; do
  start=$(date +%s)
  "$surgeon" prune "$model" --text "$text" --text-limit "$first" --samples "$samples" --length "$length" \
    --target "$target" --shots "$shots" --update "$update" ${EXTRA:-} -o "$out/$update"
  end=$(date +%s)
  python3 - "$out/$update/report.json" <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
for s in r["shots"]:
    print("  shot %d: reached %5.2f %%  loss before %.4f  after %.4f  predicted rise %.4f  seconds %s" % (
        s["number"], 100 * s["reached"], s["held_out_loss_before"], s["held_out_loss_after"], s["predicted_increase"] or 0,
        " ".join("%s %.1f" % kv for kv in sorted(s["seconds"].items()))))
print("  commit %s, peak resident %.2f GB" % (r["program"]["version"], r["peak_resident_bytes"] / 1e9))
PY
  echo "update $update, target $target in $shots shots: perplexity on the rest $(perplexity "$out/$update"), $((end - start)) s"
done
