//! Promise: what the fuzz targets check holds for their seeds, on a stable compiler.

use std::path::PathBuf;

#[path = "../../fuzz/checks.rs"]
mod checks;

#[test]
fn the_seeds_of_every_fuzz_target_pass_its_check() {
    let seeds = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds"));
    for (target, check) in
        [("parse", checks::parse as fn(&[u8])), ("encode", checks::encode), ("decode", checks::decode)]
    {
        let files: Vec<_> = std::fs::read_dir(seeds.join(target)).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(files.len() >= 3, "{target} has {} seeds", files.len());
        files.iter().for_each(|file| check(&std::fs::read(file).unwrap()));
    }
}
