#!/usr/bin/env bash
# Builds the emulated driver (libcuda.so.1), cuBLAS (libcublas.so.13) and NCCL (libnccl.so.2) and, for them, CUDA sources.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

usage() {
    cat <<'END'
usage: tests/emulator/build.sh [--out FOLDER] [--kernels NAME] [--races] [FOLDER OF .cu FILES ...]

Builds what is out of date and prints the folder, to be put in LD_LIBRARY_PATH. Without folders of sources, those of
the product are taken. Kernels go to OUT/NAME (default: kernels, which the driver looks in; others are chosen with
EMULATED_CUDA_KERNELS). With --races they are compiled a second time, for EMULATED_CUDA_RACES=1.
END
}

out=$root/target/emulator
name=kernels
variants=(plain)
folders=()
while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$2; shift ;;
        --kernels) name=$2; shift ;;
        --races) variants=(plain races) ;;
        -h | --help) usage; exit 0 ;;
        -*) usage >&2; exit 2 ;;
        *) folders+=("$1") ;;
    esac
    shift
done
if [ ${#folders[@]} -eq 0 ] && [ -d "$root/model/src/engine/cuda/kernels" ]; then
    folders=("$root/model/src/engine/cuda/kernels")
fi
mkdir -p "$out/$name/races" "$out/stamps"
out=$(cd "$out" && pwd)
exec 9>"$out/lock"
flock 9

CXX=${CXX:-g++}
# -march=native: what is built here runs here. Products and sums may be contracted, as nvcc does.
flags=(-std=c++17 -O2 -g -fPIC -march=native -ffp-contract=fast -fvisibility=hidden -Wall -Wextra -pthread)
kernel_flags=("${flags[@]}" -I"$here/include" -include "$here/include/cuda_on_host.h" -ftls-model=local-dynamic -fno-exceptions
    -Wno-unknown-pragmas -Wno-sign-compare -Wno-unused-function -Wno-unused-parameter -Wno-psabi)

# A kernel may take no address that is misaligned for its type, and no index outside of an array: machine.cpp is told.
plain_flags=(-fsanitize=alignment,bounds,shift,integer-divide-by-zero,unreachable,return -fno-sanitize-recover=all)
# Every access is told to races.cpp.
races_flags=(-fsanitize=thread --param=tsan-instrument-func-entry-exit=0 -Wno-tsan)

# up_to_date STAMP FILE...: whether the files and the flags are as when the stamp was written; fresh STAMP writes it.
sum_of() { { printf '%s\n' "${flags[@]}" "${kernel_flags[@]}" "${plain_flags[@]}" "${races_flags[@]}"; "$CXX" -dumpfullversion; cat "$@" "$0"; } | sha256sum; }
up_to_date() {
    local stamp=$out/stamps/$1
    shift
    now=$(sum_of "$@")
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$now" ]
}

core=("$here"/{settings,memory,machine,streams,driver,races}.cpp)
headers=("$here"/*.h "$here"/include/*.h)
if ! up_to_date core "${core[@]}" "$here"/{cublas,nccl}.cpp "${headers[@]}"; then
    temporary=$(mktemp -d "$out/build.XXXXXX")
    for file in "${core[@]}"; do
        "$CXX" "${flags[@]}" -c -o "$temporary/$(basename "$file" .cpp).o" "$file" &
        [ "$(jobs -rp | wc -l)" -lt 2 ] || wait -n
    done
    wait
    # The functions that kernels call are seen by them only because they are exported.
    "$CXX" -shared -pthread -Wl,-soname,libcuda.so.1 -Wl,-z,defs -o "$temporary/libcuda.so.1" "$temporary"/*.o -ldl
    "$CXX" "${flags[@]}" -O3 -shared -Wl,-soname,libcublas.so.13 -Wl,-rpath,'$ORIGIN' -Wl,-z,defs -o "$temporary/libcublas.so.13" \
        "$here/cublas.cpp" "$temporary/libcuda.so.1"
    "$CXX" "${flags[@]}" -shared -Wl,-soname,libnccl.so.2 -Wl,-rpath,'$ORIGIN' -Wl,-z,defs -o "$temporary/libnccl.so.2" \
        "$here/nccl.cpp" "$temporary/libcuda.so.1" -lrt
    mv "$temporary"/lib*.so.* "$out"
    rm -rf "$temporary"
    # Programs that look for the bare names find these before the machine's own.
    ln -sf libcuda.so.1 "$out/libcuda.so"
    ln -sf libcublas.so.13 "$out/libcublas.so"
    echo "$now" >"$out/stamps/core"
fi

# The kernels of a source, as a list for the driver: NAME(threads_max).
list() {
    "$CXX" "${kernel_flags[@]}" -DEMULATED_LISTING -x c++ -E -P "$1" | perl -0777 -ne '
        my $balanced = qr/(\((?:[^()]++|(?-1))*\))/;
        while (/__global__((?:\s|void\b|__launch_bounds__\s*$balanced)*)([A-Za-z_]\w*)\s*\(/g) {
            my ($between, $name) = ($1, $3);
            my $bounds = $between =~ /__launch_bounds__\s*$balanced/ ? $1 : "()";
            print "    EMULATED_KERNEL($name, $bounds),\n";
        }'
}

compile() {
    local file=$1 variant=$2 made=$3 base temporary listed ok=0
    local -n extra=${variant}_flags
    base=$(basename "$file" .cu)
    temporary=$(mktemp -d "$out/build.XXXXXX")
    listed=$(set -e; list "$file") || return 1
    if [ -z "$listed" ]; then
        rm -rf "$temporary"
        return
    fi
    cat >"$temporary/$base.cpp" <<END
#include "$file"

static const emulated::Kernel kernels[] = {
$listed
};
static void *shared() {
    static thread_local char anchor; // lies among the __shared__ variables of this source
    return &anchor;
}
extern "C" __attribute__((visibility("default"))) const emulated::Source emulated_source = {
    "$base.cu", kernels, sizeof kernels / sizeof *kernels, shared};
END
    "$CXX" "${kernel_flags[@]}" "${extra[@]}" -c -o "$temporary/$base.o" "$temporary/$base.cpp" &&
        "$CXX" -shared -Wl,-z,defs -o "$temporary/$base.so" "$temporary/$base.o" "$out/libcuda.so.1" &&
        mv "$temporary/$base.so" "$made" || ok=1
    rm -rf "$temporary"
    return $ok
}

kept=()
failed=0
for folder in "${folders[@]}"; do
    folder=$(cd "$folder" && pwd)
    mapfile -t sources < <(find "$folder" -maxdepth 1 -name '*.cu' | sort)
    mapfile -t included < <(find "$folder" -maxdepth 1 \( -name '*.cuh' -o -name '*.h' \) | sort)
    for file in "${sources[@]}"; do
        base=$(basename "$file" .cu)
        kept+=("$base.so")
        for variant in "${variants[@]}"; do
            made=$out/$name/$base.so
            [ "$variant" = plain ] || made=$out/$name/races/$base.so
            if ! up_to_date "$name.$base.$variant" "$file" "${included[@]}" "${headers[@]}" || [ ! -f "$made" ]; then
                if compile "$file" "$variant" "$made"; then echo "$now" >"$out/stamps/$name.$base.$variant"; else failed=1; fi
            fi
        done
    done
done
# What no source stands for any more.
for file in "$out/$name"/*.so "$out/$name"/races/*.so; do
    [ -e "$file" ] || continue
    case " ${kept[*]} " in *" ${file##*/} "*) ;; *) rm -f "$file" ;; esac
done
# The program that tries the emulator itself, where its sources are asked for.
for folder in "${folders[@]}"; do
    [ -f "$folder/host.cpp" ] || continue
    if ! up_to_date "$name.host" "$folder/host.cpp" "${headers[@]}"; then
        "$CXX" "${flags[@]}" -include "$here/include/vectors.h" -Wl,-rpath,"$out" -o "$out/$name/host" "$folder/host.cpp" \
            "$out/libcuda.so.1" "$out/libcublas.so.13"
        echo "$now" >"$out/stamps/$name.host"
    fi
done
[ $failed = 0 ]
echo "$out"
