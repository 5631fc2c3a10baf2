//! Writes what each fuzz target begins with: `corpus fuzz/corpus`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::PathBuf;

use qbroker_tests::fuzz::TARGETS;

fn main() {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let Some(folder) = folder else { return eprintln!("name the folder of the corpora") };
    for target in TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder).unwrap();
        let seeds = (target.seeds)();
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed).unwrap();
        }
        eprintln!("{}: {} inputs", target.name, seeds.len());
    }
}
