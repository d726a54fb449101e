//! `/dev/kmsg`: each read gives one record of the kernel's buffer, oldest first.
//!
//! ```text
//! PRIORITY,SEQUENCE,MICROSECONDS,FLAGS[,…];WORDS
//!  KEY=VALUE                                       (a line that begins with a space belongs to the record above it)
//! ```

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;

/// Longest record: the kernel refuses to read into less.
const MAX_RECORD_BYTES: usize = 16 * 1024;
/// What is kept of what was read: with their heads and keys, records take a few times what is shown of them.
const KEPT_BYTES: usize = 8 * super::MAX_BYTES;
/// A kernel that goes on talking is not listened to for longer.
const READ_FOR: Duration = Duration::from_secs(1);

/// The end of what the kernel has said, a line `[seconds] words` for each record; `None` where there is no such device.
pub(super) fn end_of(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(device) => read_end(device).map(|records| Some(lines(&records))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_end(mut device: impl Read) -> io::Result<Vec<u8>> {
    let (mut kept, mut record) = (Vec::new(), vec![0; MAX_RECORD_BYTES]);
    let began = Instant::now();
    while began.elapsed() < READ_FOR {
        match device.read(&mut record) {
            Ok(0) => break,
            Ok(length) => kept.extend_from_slice(&record[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What was next was overwritten meanwhile: the one after it comes.
            Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => {}
            Err(error) => return Err(error),
        }
        if kept.len() > 2 * KEPT_BYTES {
            kept.drain(..kept.len() - KEPT_BYTES);
        }
    }
    Ok(kept)
}

/// The first one may be cut, and is left out then.
fn lines(records: &[u8]) -> Vec<u8> {
    records.split(|&byte| byte == b'\n').filter_map(line).flatten().collect()
}

fn line(record: &[u8]) -> Option<Vec<u8>> {
    let end = record.iter().position(|&byte| byte == b';')?;
    let (head, words) = (std::str::from_utf8(&record[..end]).ok()?, &record[end + 1..]);
    let mut fields = head.split(',');
    let _priority: u64 = fields.next()?.parse().ok()?;
    let _sequence: u64 = fields.next()?.parse().ok()?;
    let at_us: u64 = fields.next()?.parse().ok()?;
    let mut line = format!("[{:>5}.{:06}] ", at_us / 1_000_000, at_us % 1_000_000).into_bytes();
    line.extend_from_slice(words);
    line.push(b'\n');
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says what it was told to, one answer for each read, and then that there is no more for now.
    struct Kernel(Vec<io::Result<&'static str>>);

    impl Read for Kernel {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.0.remove(0).map(|record| {
                buffer[..record.len()].copy_from_slice(record.as_bytes());
                record.len()
            })
        }
    }

    fn said(answers: Vec<io::Result<&'static str>>) -> String {
        String::from_utf8(lines(&read_end(Kernel(answers)).unwrap())).unwrap()
    }

    #[test]
    fn each_record_becomes_a_line_with_its_time_and_without_its_keys() {
        let records = vec![
            Ok("5,0,0,-;Linux version 6.1.0\n"),
            Ok("6,339,5140900,-,caller=T1;usb 1-4: new device; number 124\n SUBSYSTEM=usb\n DEVICE=c189:123\n"),
            Ok("30,340,123456789012,-;systemd[1]: Started x\n"),
        ];
        let expected = "[    0.000000] Linux version 6.1.0\n[    5.140900] usb 1-4: new device; number 124\n[123456.789012] systemd[1]: Started x\n";
        assert_eq!(said(records), expected);
    }

    #[test]
    fn records_that_were_overwritten_meanwhile_and_interrupts_end_nothing() {
        let overwritten = || Err(io::Error::from_raw_os_error(Errno::EPIPE as i32));
        let answers =
            vec![overwritten(), Ok("6,7,1000000,-;one\n"), Err(io::ErrorKind::Interrupted.into()), Ok("6,9,2000000,-;two\n")];
        assert_eq!(said(answers), "[    1.000000] one\n[    2.000000] two\n");
        assert!(read_end(Kernel(vec![Err(io::ErrorKind::PermissionDenied.into())])).is_err());
    }

    #[test]
    fn a_kernel_that_never_stops_talking_is_listened_to_for_a_while_and_its_end_kept() {
        struct Talker(u64);
        impl Read for Talker {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                let record = format!("6,{0},{0},-;word\n", self.0);
                buffer[..record.len()].copy_from_slice(record.as_bytes());
                Ok(record.len())
            }
        }
        let began = Instant::now();
        let kept = read_end(Talker(0)).unwrap();
        assert!(began.elapsed() < 10 * READ_FOR && kept.len() <= 2 * KEPT_BYTES + MAX_RECORD_BYTES);
        assert!(kept.ends_with(b"word\n") && kept.len() > super::super::MAX_BYTES);
    }

    #[test]
    fn what_is_no_record_is_left_out() {
        assert_eq!(said(vec![Ok(",12,-;cut\n6,1,x,-;no time\nno head at all\n\n6,2,0,-;\n")]), "[    0.000000] \n");
    }

    #[test]
    fn the_device_of_this_machine_is_read_to_its_end_and_not_beyond() {
        let began = Instant::now();
        match end_of(Path::new("/dev/kmsg")) {
            Ok(Some(log)) => {
                let text = String::from_utf8_lossy(&log).into_owned();
                assert!(text.lines().all(|line| line.starts_with('[') && line.contains("] ")), "{text}");
            }
            Ok(None) => println!("skipped: this machine has no /dev/kmsg"),
            Err(error) => println!("skipped: /dev/kmsg: {error}"),
        }
        assert!(began.elapsed() < 10 * READ_FOR, "it waited for more");
        assert!(end_of(Path::new("/no/such/device")).unwrap().is_none());
    }
}
