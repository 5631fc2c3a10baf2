//! Bytes that were valid, changed as a writer's bug, a newer version or an enemy would change them.

use crate::seed::Rng;

/// No input is longer.
const BYTES_MAX: usize = 16 << 10;

/// What lengths and numbers are wrong in the most telling way.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    0x00ff_ffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x0200_0000,
    u64::MAX / 2,
    u64::MAX - 1,
    u64::MAX,
];

/// One to four changes of `bytes`, with `other` as what parts are taken from.
pub fn mutate(bytes: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=rng.below(4) {
        change(&mut bytes, other, rng);
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    if bytes.is_empty() {
        return bytes.extend_from_slice(other);
    }
    let at = rng.below(bytes.len());
    match rng.below(9) {
        0 => bytes[at] ^= 1 << rng.below(8),
        1 => bytes[at] = byte(rng),
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..(at + 1 + rng.below(8)).min(bytes.len()))),
        4 => insert(bytes, at, &[byte(rng)].repeat(1 + rng.below(9))),
        5 => {
            let from = rng.below(other.len() + 1);
            let to = from + rng.below(other.len() + 1 - from);
            insert(bytes, at, &other[from..to]);
        }
        6 => {
            let to = at + rng.below(bytes.len() - at);
            let again = bytes[at..to].to_vec();
            insert(bytes, at, &again);
        }
        // A number as a varint, and one as so many bytes.
        7 => insert(bytes, at, &varint(number(rng))),
        _ => {
            let number = number(rng).to_le_bytes();
            let width = [2, 4, 8][rng.below(3)].min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&number[..width]);
        }
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, more: &[u8]) {
    bytes.splice(at..at, more.iter().copied());
}

fn byte(rng: &mut Rng) -> u8 {
    rng.next_u64().to_le_bytes()[0]
}

fn number(rng: &mut Rng) -> u64 {
    NUMBERS[rng.below(NUMBERS.len())].wrapping_add(rng.below(3) as u64)
}

/// A number of protocol buffers: seven bits a byte.
pub fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while 0x7f < number {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
    bytes
}
