//! Rot: one bit of a file is another, in a copy of the folder.
//!
//! A flipped bit is refused as damage, is told to whoever reads what it hit, or has changed nothing:
//! nothing that anybody was told may be another.

use std::collections::BTreeMap;

use qbroker_storage::disk::sim::Rng;

use super::audit;
use super::run::Run;
use super::world::Rotten;

/// Bits that are flipped of each kind of file.
const OF_A_KIND: usize = 2;

/// What a file is, by its folder and the beginning of its name.
fn kind(path: &str) -> &str {
    path.split('-').next().unwrap_or(path)
}

impl Run {
    pub(super) fn rot(&mut self) -> Result<(), String> {
        let mut rng = Rng::new(self.seed ^ 0xb17);
        let mut kinds = BTreeMap::<String, Vec<String>>::new();
        for path in self.world.disk.paths() {
            if !self.world.disk.bytes(&path).is_empty() {
                kinds.entry(kind(&path).to_owned()).or_default().push(path);
            }
        }
        for paths in kinds.values() {
            for _ in 0..OF_A_KIND {
                let path = &paths[rng.below(paths.len())];
                let at = self.place_in(path, &mut rng);
                let bit = u8::try_from(rng.below(8)).expect("below 8");
                self.flip(path, at, bit)?;
            }
        }
        Ok(())
    }

    /// Any byte; mostly one that is not zero, of which prepared files have many.
    fn place_in(&self, path: &str, rng: &mut Rng) -> usize {
        let bytes = self.world.disk.bytes(path);
        let at = rng.below(bytes.len());
        let behind = bytes[at..].iter().position(|byte| *byte != 0).filter(|_| rng.below(4) != 0);
        behind.map_or(at, |behind| at + behind)
    }

    fn flip(&mut self, path: &str, at: usize, bit: u8) -> Result<(), String> {
        let what = format!("with bit {bit} of byte {at} of {path} flipped");
        match self.world.with_rot(path, at, bit)? {
            // There are two, and one of them is enough.
            Rotten::Refused(why) if path.starts_with("ckpt/ckpt-") => Err(format!("{what}: {why}")),
            // The file that names the format has no more to tell rot by.
            Rotten::Refused(why) if why.contains("damage") || path == "FORMAT" => Ok(()),
            Rotten::Refused(why) => Err(format!("{what}: {why}")),
            Rotten::Started(engine, _writer) => match audit::observe(&engine) {
                // A record that nothing but a reader needs: whoever reads it is told.
                Err(why) if why.starts_with("record ") => Ok(()),
                Err(why) => Err(format!("{what}: {why}")),
                Ok(seen) => audit::compare(&seen, self.timeline.now())
                    .map_err(|wrong| format!("{what}: {wrong}")),
            },
        }
    }
}
