//! The emulated CUDA driver runs kernels rightly, and finds the faults that it is there to find.

use std::sync::OnceLock;

use wiremamba_tests::emulator::Emulator;

/// What one case of `tests/emulator/selftest/host.cpp` said.
struct Said {
    out: String,
    err: String,
    ok: bool,
}

fn case(name: &str, environment: &[(&str, &str)]) -> Said {
    static EMULATOR: OnceLock<Emulator> = OnceLock::new();
    let emulator = EMULATOR.get_or_init(|| Emulator::build("selftest", "tests/emulator/selftest"));
    let mut command = emulator.command(emulator.kernels.join("host"));
    let output = command.arg(name).envs(environment.iter().copied()).output().expect("the host program runs");
    Said {
        out: String::from_utf8_lossy(&output.stdout).trim_end().to_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        ok: output.status.success(),
    }
}

/// Passes in every order of the threads, on one and on several threads of the operating system.
fn passes_in_any_order(name: &str) {
    for order in ["forward", "reverse", "random:1", "random:2"] {
        for threads in ["1", "3"] {
            let said = case(name, &[("EMULATED_CUDA_ORDER", order), ("EMULATED_CUDA_THREADS", threads)]);
            assert!(said.ok && said.out == "ok", "{name}, {order}, {threads} threads: {}{}", said.out, said.err);
        }
    }
}

/// Ends the process, and says all of this about it.
fn is_found(name: &str, words: &[&str]) {
    is_found_with(name, &[], words);
}

fn is_found_with(name: &str, environment: &[(&str, &str)], words: &[&str]) {
    let said = case(name, environment);
    assert!(!said.ok, "{name} went unnoticed: {}", said.out);
    for word in words {
        assert!(said.err.contains(word), "{name}: {word:?} is missing in {}", said.err);
    }
}

fn results(name: &str) -> Vec<String> {
    let orders = ["forward", "reverse", "random:1"];
    let run = |order| case(name, &[("EMULATED_CUDA_ORDER", order), ("EMULATED_CUDA_THREADS", "1")]);
    orders.map(run).into_iter().map(|said| said.out).collect()
}

#[test]
fn kernels_compute_what_they_say_in_any_order() {
    passes_in_any_order("plain");
}

#[test]
fn products_agree_with_sums_in_double_precision() {
    passes_in_any_order("products");
}

#[test]
fn a_graph_runs_what_was_recorded_and_a_capture_forbids_what_cuda_forbids() {
    passes_in_any_order("graph");
    let said = case("graph", &[("EMULATED_CUDA_DEFERRED", "1")]);
    assert!(said.ok, "{}{}", said.out, said.err);
}

#[test]
fn deferred_work_runs_when_it_is_waited_for() {
    let said = case("deferred", &[("EMULATED_CUDA_DEFERRED", "1")]);
    assert!(said.ok, "{}{}", said.out, said.err);
    let said = case("deferred", &[]);
    assert!(!said.ok, "without it, work runs at once");
}

#[test]
fn launches_keep_to_the_limits_of_the_device() {
    let said = case("limits", &[]);
    assert!(said.ok, "{}{}", said.out, said.err);
}

#[test]
fn memory_runs_out_is_fresh_and_is_missed_when_leaked() {
    let said = case("memory", &[("EMULATED_CUDA_MEMORY", "1048576"), ("EMULATED_CUDA_LEAKS", "1")]);
    assert!(said.ok, "{}{}", said.out, said.err);
    assert!(said.err.contains("1 blocks of 77 bytes in all were not freed"), "{}", said.err);
}

#[test]
fn a_missing_barrier_changes_the_result_with_the_order() {
    for name in ["no_barrier", "no_second_barrier", "blocks_collide"] {
        let results = results(name);
        assert_ne!(results[0], results[1], "{name}");
        assert_ne!(results[0], results[2], "{name}");
    }
}

#[test]
fn accesses_that_no_barrier_orders_are_named() {
    let shared = ["with no barrier between", "of static shared memory"];
    let found = |name, words: &[&str]| {
        for order in ["forward", "reverse", "random:3"] {
            is_found_with(name, &[("EMULATED_CUDA_RACES", "1"), ("EMULATED_CUDA_ORDER", order)], words);
        }
    };
    found("no_second_barrier", &shared);
    found("shuffle_is_no_barrier", &shared);
    found("bytes_collide", &shared);
    found("blocks_collide", &["writes, at faulty.cu:", "what another block of this launch wrote, at faulty.cu:"]);
    found("blocks_peek", &["another block of this launch"]);
    found("no_barrier", &["kernel no_barrier"]);
    found("unwritten", &["thread (7,0,0)", "reads shared memory that its block has not written"]);
    for (name, order) in [("plain", "forward"), ("plain", "random:1"), ("graph", "reverse")] {
        let said = case(name, &[("EMULATED_CUDA_RACES", "1"), ("EMULATED_CUDA_ORDER", order)]);
        assert!(said.ok, "a race where there is none: {}{}", said.out, said.err);
    }
}

#[test]
fn unwritten_shared_memory_is_not_a_number() {
    for result in results("unwritten") {
        let not_numbers: Vec<_> = result.split(' ').enumerate().filter(|(_, v)| v.contains("nan")).collect();
        assert_eq!(not_numbers.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [7], "{result}");
    }
}

#[test]
fn accesses_outside_of_memory_are_found_with_kernel_thread_and_line() {
    is_found(
        "reads_behind",
        &["kernel reads_behind", "thread (63,0,0)", "read from", "faulty.cu:", "0 bytes behind the end"],
    );
    is_found("writes_before", &["kernel writes_before", "wrote to", "bytes before block"]);
    is_found("index_outside", &["kernel index_outside", "thread (7,0,0)", "index outside of its array, at faulty.cu:"]);
    is_found("misaligned", &["kernel misaligned", "no multiple of the alignment, at faulty.cu:"]);
    is_found("after_free", &["kernel reads_behind", "read from"]);
    is_found("wild_pointer", &["launch of reads_behind: argument 0", "in no block of memory"]);
}

#[test]
fn threads_that_wait_for_others_that_never_come_are_found() {
    is_found("divergent", &["16 of the block's 32 threads ended without reaching the __syncthreads()"]);
    is_found("half_a_warp", &["waits for ever in __shfl_down_sync", "0xffff0000 have ended"]);
    is_found("different_operations", &["a vote with mask 0xffffffff, but lane 0 is in __shfl_sync"]);
}

#[test]
fn a_fault_can_be_an_error_that_stays() {
    for name in ["reads_behind", "divergent", "index_outside"] {
        let said = case(name, &[("EMULATED_CUDA_FAULT", "error")]);
        assert_eq!(said.out, "CUDA_ERROR_LAUNCH_FAILED, then CUDA_ERROR_LAUNCH_FAILED", "{}", said.err);
    }
}

#[test]
fn the_driver_misbehaves_as_it_is_asked_to() {
    let init = |environment: &[(&str, &str)]| case("init", environment).out;
    assert_eq!(init(&[]), "0 13000 1 9.0");
    assert_eq!(init(&[("EMULATED_CUDA_DEVICES", "0")]), "100 13000 0 0.0");
    assert_eq!(
        init(&[("EMULATED_CUDA_INIT_ERROR", "803"), ("EMULATED_CUDA_DRIVER_VERSION", "12020")]),
        "803 12020 0 0.0"
    );
    assert_eq!(init(&[("EMULATED_CUDA_CAPABILITY", "7.5")]), "0 13000 1 7.5");
    assert!(case("plain", &[("EMULATED_CUDA_CAPABILITY", "7.5")]).out.contains("CUDA_ERROR_NO_BINARY_FOR_GPU"));
    assert!(case("plain", &[("EMULATED_CUDA_FAIL_LAUNCH", "2")]).out.contains("CUDA_ERROR_LAUNCH_FAILED"));
}
