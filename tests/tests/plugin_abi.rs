//! Promise: the C header says what the Rust types are, and a change of either is a new version of the interface.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use wiremamba_abi::ABI_VERSION;

fn plugin(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin").join(path)
}

/// The header as the Rust types make it.
fn generated() -> String {
    let config = cbindgen::Config::from_file(plugin("abi/cbindgen.toml")).unwrap();
    let source = plugin("abi/src/lib.rs");
    let bindings = cbindgen::Builder::new().with_config(config).with_src(source).generate().unwrap();
    let mut header = Vec::new();
    bindings.write(&mut header);
    String::from_utf8(header).unwrap()
}

/// What a header means to a compiler: without its comments, white space and version.
fn digest(header: &str) -> String {
    let mut code = String::new();
    let mut rest = header;
    while let Some((before, comment)) = rest.split_once("/*") {
        code.push_str(before);
        rest = comment.split_once("*/").expect("a comment ends").1;
    }
    code.push_str(rest);
    let version = format!("#define WIREMAMBA_ABI_VERSION {ABI_VERSION}");
    assert!(code.contains(&version));
    let words: Vec<&str> = code.split_whitespace().collect();
    let words = words.join(" ").replace(&version, "");
    Sha256::digest(words).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_committed_header_is_the_one_that_the_types_make() {
    let path = plugin("include/wiremamba_source.h");
    let header = generated();
    if std::env::var_os("WIREMAMBA_BLESS").is_some() {
        std::fs::write(&path, &header).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(committed == header, "the header is not current: run this test with WIREMAMBA_BLESS=1");
}

/// `versions.txt` has one line for each version; a line is never changed.
#[test]
fn another_interface_is_another_version() {
    let found = digest(&generated());
    let versions = std::fs::read_to_string(plugin("abi/versions.txt")).unwrap();
    let lines: Vec<(u32, &str)> = versions
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(' ').and_then(|(version, digest)| Some((version.parse().ok()?, digest))).unwrap())
        .collect();
    assert!(
        lines.iter().map(|line| line.0).eq(1..=ABI_VERSION),
        "a line for each version, in order, up to the current one"
    );
    let recorded = lines.last().unwrap().1;
    assert_eq!(
        found,
        recorded,
        "the interface is not the one of version {ABI_VERSION} any more: raise ABI_VERSION, and add the line {} {found}",
        ABI_VERSION + 1
    );
}

#[test]
fn a_digest_sees_the_code_and_not_the_words() {
    let header = format!("/* one */\n#define WIREMAMBA_ABI_VERSION {ABI_VERSION}\nstruct a {{ int b; /* two */ }};\n");
    assert_eq!(digest(&header), digest(&header.replace("two", "three").replace('\n', "\n\n")));
    assert_ne!(digest(&header), digest(&header.replace("int b", "int c")));
}

#[test]
fn the_header_and_the_rust_types_agree_on_every_place() {
    use std::mem::offset_of;
    use wiremamba_abi::{SourceHost, SourceOption, SourcePacket, SourceStats, SourceTable};
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("sizes.c");
    let mut program = "#include \"wiremamba_source.h\"\n".to_owned();
    macro_rules! agree {
        ($($type:ident $name:literal: $($field:ident)*;)*) => {$(
            program += &format!("_Static_assert(sizeof(struct {}) == {}, \"\");\n", $name, size_of::<$type>());
            $(program += &format!(
                "_Static_assert(offsetof(struct {}, {}) == {}, \"\");\n", $name, stringify!($field), offset_of!($type, $field)
            );)*
        )*};
    }
    agree! {
        SourcePacket "wiremamba_source_packet": ts_ns data caplen len linktype direction flow_id;
        SourceOption "wiremamba_source_option": key default_value help kind flags;
        SourceStats "wiremamba_source_stats": packets bytes flows malformed;
        SourceHost "wiremamba_source_host": size log log_arg;
        SourceTable "wiremamba_source_table": abi_version size name open next_packet geterr close describe next_batch
            interrupt stats rewind pollfd;
    }
    std::fs::write(&source, program).unwrap();
    for (compiler, language) in [("cc", "c11"), ("c++", "c++17")] {
        let mut command = Command::new(compiler);
        command.args(["-Wall", "-Wextra", "-Werror", "-fsyntax-only"]).arg(format!("-std={language}"));
        command.arg("-I").arg(plugin("include"));
        if language.starts_with("c++") {
            command.args(["-x", "c++", "-D_Static_assert=static_assert"]);
        }
        match command.arg(&source).output() {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
            Err(_) => eprintln!("skipped: no {compiler}"),
        }
    }
}
