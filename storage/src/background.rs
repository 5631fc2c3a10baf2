//! Work that can wait, and must not make those wait who are answered.

/// How much this thread gives way, of the 19 that are the most: about a tenth of the share of
/// another one, where processors are scarce.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Lets the calling thread have less of the processors than the others, where they are scarce.
///
/// For threads that nobody waits for, and that hold no lock for long. Does nothing but on Linux,
/// where a priority may be one thread's.
pub fn give_way() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{getpriority_process, setpriority_process};
        let thread = Some(rustix::thread::gettid());
        if getpriority_process(thread).is_ok_and(|nice| nice < NICE) {
            // Where that is forbidden, it goes on as fast as the others.
            setpriority_process(thread, NICE).ok();
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_the_thread_that_asks_gives_way() {
        let nice_of = || rustix::process::getpriority_process(Some(rustix::thread::gettid()));
        let before = nice_of().unwrap();
        let there = std::thread::spawn(move || {
            give_way();
            nice_of().unwrap()
        });
        assert_eq!(there.join().unwrap(), NICE.max(before));
        assert_eq!(nice_of().unwrap(), before);
    }
}
