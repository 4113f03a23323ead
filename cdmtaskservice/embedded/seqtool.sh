#!/bin/bash
# seqtool: a small FASTA tool, and a badly behaved program on request. For demos and tests of the task service.
set -u

usage() {
    cat <<'TEXT'
usage: seqtool COMMAND [ARGUMENT...]

Work with sequences. Inputs are FILE operands, -i FILE (may be repeated), --in=FILE,FILE or --manifest=LISTFILE;
results go to -o DIR or --out=DIR, by default to $SEQTOOL_OUT or /output_files.
  stats [--name=FILE]   one line a file in seqstats.tsv: name, sequences, bases, shortest, longest, GC percent
  copy [--from=DIR]     copy the inputs, keeping their paths below DIR (default /input_files)
  count                 the number of inputs, in count.txt

Look at the inside. Everything is written to $SEQTOOL_OUT or /output_files.
  args ...              the arguments after "args", each ended by a NUL, in args.bin
  env                   the environment as it was given, each entry ended by a NUL, in environ.bin
  probe                 id, working directory, capabilities, cgroups and mounts, a file each
  write PATH SIZE       an output of SIZE bytes
  names                 outputs whose names are hard to handle
  symlink [TARGET]      an output that is a symbolic link (default: to /etc/passwd)
  hardlink [SOURCE]     two outputs that are one file, or one that is SOURCE
  fifo                  an output that is a named pipe

Behave.
  say LINES             LINES lines on standard output, and as many on standard error
  tick LINES SECONDS    LINES lines on standard output, SECONDS apart, and an output
  fail CODE             a line on standard error, then exit with CODE
  sleep SECONDS         wait; ends at once on SIGTERM, with 143
  later SECONDS ...     wait, and then do what the rest says
  stubborn SECONDS      wait, deaf to SIGTERM
  spin SECONDS          keep one core busy; prints the CPU seconds that it got
  hog MEGABYTES         take that much memory
  procs NUMBER          have NUMBER processes at once
TEXT
}

out=${SEQTOOL_OUT:-/output_files}
from=/input_files
name=seqstats.tsv
inputs=()

die() {
    printf 'seqtool: %s\n' "$1" >&2
    exit "${2:-2}"
}

# Fills out, from, name and inputs from options in both common forms, "-o DIR" and "--out=DIR".
read_options() {
    local listed
    while (($#)); do
        case $1 in
        -o | --out) out=${2?"$1 needs a directory"} && shift ;;
        --out=*) out=${1#*=} ;;
        -i | --input) inputs+=("${2?"$1 needs a file"}") && shift ;;
        --in=*)
            IFS=, read -r -d '' -a listed < <(printf '%s\0' "${1#*=}")
            inputs+=("${listed[@]}")
            ;;
        --manifest=*)
            mapfile -t listed <"${1#*=}" || die "cannot read the manifest ${1#*=}"
            inputs+=("${listed[@]}")
            ;;
        --from=*) from=${1#*=} ;;
        --name=*) name=${1#*=} ;;
        -*) die "unknown option $1" ;;
        *) inputs+=("$1") ;;
        esac
        shift
    done
    ((${#inputs[@]})) || die "no input files"
    mkdir -p "$out" || die "cannot write to $out"
}

stats() {
    local file
    printf 'file\tsequences\tbases\tshortest\tlongest\tgc_percent\n' >"$out/$name"
    for file in "${inputs[@]}"; do
        [[ -r $file ]] || die "cannot read $file" 3
        awk -v file="${file##*/}" '
            function finish() {
                if (!count) return
                if (count == 1 || length_now < shortest) shortest = length_now
                if (length_now > longest) longest = length_now
            }
            { sub(/\r$/, "") }
            /^>/ { finish(); count++; length_now = 0; next }
            /^;/ || /^$/ { next }
            !count { bad = 1; exit }
            { length_now += length($0); bases += length($0); gc += gsub(/[GCgc]/, "") }
            END {
                if (bad) exit 1
                finish()
                printf "%s\t%d\t%d\t%d\t%d\t%.2f\n", file, count, bases, shortest, longest, bases ? 100 * gc / bases : 0
            }' "$file" >>"$out/$name" || die "$file is not FASTA: it does not begin with '>'" 4
    done
    printf 'seqtool: %d files summarised in %s\n' "${#inputs[@]}" "$out/$name"
}

copy() {
    local file target
    for file in "${inputs[@]}"; do
        target=$out/${file#"${from%/}"/}
        mkdir -p "${target%/*}" && cp "$file" "$target" || die "cannot copy $file" 3
    done
}

probe() {
    id >"$out/id"
    pwd >"$out/cwd"
    cp /proc/self/status /proc/self/cgroup /proc/self/mountinfo /proc/self/limits "$out"
}

names() {
    local odd
    for odd in 'with space' $'with\nnewline' $'with\ttab' -dash 'per%20cent' 'plus+and&' "quote'\"" 'ünï' $'not-utf8-\xff' .hidden; do
        printf '%s' "$odd" >"$out/$odd"
    done
    mkdir -p "$out/deep/er/still" "$out/empty"
    printf 'deep' >"$out/deep/er/still/file"
    : >"$out/zero-bytes"
}

# As PID 1 of a container a program without a handler is deaf to SIGTERM, so the handler is set even to leave.
wait_for() {
    sleep "$1" &
    local sleeper=$!
    trap 'kill "$sleeper"; exit 143' TERM
    wait "$sleeper"
}

stubborn() {
    local until=$((SECONDS + $1))
    trap '' TERM
    while ((SECONDS < until)); do sleep 1; done
}

spin() {
    local until=$((SECONDS + $1)) TIMEFORMAT='cpu_seconds %U'
    time while ((SECONDS < until)); do :; done
}

hog() {
    local block blocks=() held
    block=$(head -c 1048576 /dev/zero | tr '\0' x)
    for ((held = 0; held < $1; held++)); do blocks[held]=$block; done
    printf 'seqtool: held %d MB\n' "${#blocks[@]}"
}

# Started by the simple shell, which gives up when it may not fork; bash would try again for half a minute.
procs() {
    busybox ash -c '
        started=0
        while [ "$started" -lt "$1" ]; do
            sleep 5 &
            started=$((started + 1))
        done
        echo "seqtool: $started processes at once"' procs "$1"
}

say() {
    local line
    for ((line = 1; line <= $1; line++)); do
        printf 'out %d\n' "$line"
        printf 'err %d\n' "$line" >&2
    done
}

tick() {
    local line
    for ((line = 1; line <= $1; line++)); do
        printf 'tick %d of %d\n' "$line" "$1"
        wait_for "$2"
    done
    printf '%d\n' "$1" >"$out/ticks.txt"
}

command=${1:-}
(($#)) && shift
case $command in
stats | copy)
    read_options "$@"
    "$command"
    ;;
count)
    read_options "$@"
    printf '%d\n' "${#inputs[@]}" >"$out/count.txt"
    ;;
args) if (($#)); then printf '%s\0' "$@"; fi >"$out/args.bin" ;;
env) cat "/proc/$$/environ" >"$out/environ.bin" ;;
probe) probe ;;
write)
    mkdir -p "$(dirname "$out/$1")"
    yes "$1" | head -c "$2" >"$out/$1"
    ;;
names) names ;;
symlink) ln -s "${1:-/etc/passwd}" "$out/link" ;;
hardlink)
    if (($#)); then ln "$1" "$out/linked"; else
        printf 'one file' >"$out/first"
        ln "$out/first" "$out/second"
    fi
    ;;
fifo) mkfifo "$out/pipe" ;;
say) say "$1" ;;
tick) tick "$1" "$2" ;;
fail) die "failing with exit code $1, as asked" "$1" ;;
sleep) wait_for "$1" ;;
later)
    wait_for "$1"
    exec "$0" "${@:2}"
    ;;
stubborn) stubborn "$1" ;;
spin) spin "$1" ;;
hog) hog "$1" ;;
procs) procs "$1" ;;
help | --help | -h) usage ;;
*)
    usage >&2
    die "unknown command '$command'"
    ;;
esac
