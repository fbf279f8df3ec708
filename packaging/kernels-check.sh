#!/usr/bin/env bash
# Compiles every CUDA kernel for the GPUs that matter and says what each takes; one that spills registers fails.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=packaging/lib.sh
. packaging/lib.sh

usage() {
    cat <<'END'
usage: packaging/kernels-check.sh [FOLDER]

Compiles the .cu files of FOLDER (default: model/src/engine/cuda/kernels) with nvcc for compute capability 8.0 and 9.0;
needs no GPU. Prints registers, shared memory and stack of each kernel. Exit code 1 if a kernel does not compile, gets a
warning, or keeps registers in memory (spills).

nvcc is $NVCC, or $CUDA_HOME/bin/nvcc, or that of packaging/cuda-toolchain.sh, which is fetched where it is missing.
END
}

case ${1:-} in
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
esac
folder=${1:-model/src/engine/cuda/kernels}
[ -d "$folder" ] || die "there is no folder $folder"
mapfile -t sources < <(find "$folder" -maxdepth 1 -name '*.cu' | sort)
[ ${#sources[@]} -gt 0 ] || die "there are no .cu files in $folder"
find_nvcc

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say "compiling ${#sources[@]} files with $NVCC"
started=$(date +%s)
failed=0
# As many at a time as there are cores.
running=0
for file in "${sources[@]}"; do
    base=$(basename "$file" .cu)
    (
        if ! "$NVCC" "${NVCC_FLAGS[@]}" -Werror all-warnings -Xptxas -v -fatbin -gencode arch=compute_80,code=sm_80 \
            -gencode arch=compute_90,code=sm_90 -o "$work/$base.fatbin" "$file" >"$work/$base.log" 2>&1; then
            touch "$work/$base.failed"
        fi
    ) &
    running=$((running + 1))
    if [ $running -ge "$(nproc)" ]; then
        wait -n
        running=$((running - 1))
    fi
done
wait
for file in "${sources[@]}"; do
    base=$(basename "$file" .cu)
    if [ -e "$work/$base.failed" ]; then
        failed=1
        printf '%s does not compile:\n' "$file"
        grep -v '^ptxas info\|^    [0-9]' "$work/$base.log" || true
    fi
done

# Of the compiler's account of each kernel: one line, FILE KERNEL ARCH REGISTERS SHARED STACK SPILLED.
for log in "$work"/*.log; do
    awk -v file="$(basename "$log" .log).cu" '
        /Compiling entry function/ { split($0, quoted, "\047"); kernel = quoted[2]; arch = quoted[4] }
        /bytes stack frame/ && kernel != "" { stack = $1; spilled = $5 + $9 }
        /Used [0-9]+ registers/ && kernel != "" {
            registers = shared = 0
            for (i = 1; i <= NF; i++) {
                if ($(i + 1) ~ /^registers/) registers = $i
                if ($(i + 2) ~ /^smem/) shared = $i
            }
            print file, kernel, arch, registers, shared, stack, spilled
            kernel = ""
        }' "$log"
done | sort >"$work/table"
awk 'BEGIN { printf "%-20s %-36s %-6s %9s %8s %6s %8s\n", "file", "kernel", "GPU", "registers", "shared", "stack", "spilled" }
    { printf "%-20s %-36s %-6s %9d %8d %6d %8d%s\n", $1, $2, $3, $4, $5, $6, $7, ($7 > 0 ? "  <-- spills" : "") }' "$work/table"
kernels=$(awk '{ print $2 }' "$work/table" | sort -u | wc -l)
spilling=$(awk '$7 > 0' "$work/table" | wc -l)
[ "$kernels" -gt 0 ] || failed=1
[ "$spilling" = 0 ] || failed=1
say "$kernels kernels, $(wc -l <"$work/table") of machine code, $spilling that spill, $(($(date +%s) - started)) s"
exit $failed
