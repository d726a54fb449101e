//! What a process gives up for good.

use std::collections::BTreeMap;
use std::io;

use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, User, geteuid, setgroups, setresgid, setresuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
};

/// The user that decodes, where it exists.
const USER: &str = "update-engine-decoder";

/// Where it does not: the user that owns nothing.
const NOBODY: u32 = 65_534;

/// Address space of the process: its program, what is shared, and what codecs take, with room to spare.
const MAX_MEMORY_BYTES: u64 = 256 << 20;

/// What reading, writing and memory take, and what the end of a process does. Everything else ends it at once.
const CALLS: [libc::c_long; 18] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_futex,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Who decodes, of those that this host has.
pub(super) fn decoding_user() -> (Uid, Gid) {
    match User::from_name(USER) {
        Ok(Some(user)) => (user.uid, user.gid),
        _ => (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY)),
    }
}

/// Gives up everything but the descriptors that are open, and becomes `user`, where it is root. Nothing of it can be had back. An error names the
/// step.
pub(super) fn confine((user, group): (Uid, Gid)) -> io::Result<()> {
    let at = |step: &'static str| move |error: nix::Error| io::Error::other(format!("{step}: {error}"));
    prctl::set_dumpable(false).map_err(at("no core dumps"))?;
    if geteuid().is_root() {
        setgroups(&[]).map_err(at("no groups"))?;
        setresgid(group, group, group).map_err(at("another group"))?;
        setresuid(user, user, user).map_err(at("another user"))?;
    }
    // It goes with whoever has started it, however that ends; a change of user would have undone it.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(at("ending with the daemon"))?;
    for (resource, limit) in [
        (Resource::RLIMIT_AS, MAX_MEMORY_BYTES),
        (Resource::RLIMIT_NOFILE, 0),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NPROC, 0),
    ] {
        setrlimit(resource, limit, limit).map_err(at("limits"))?;
    }
    let refused = |error| io::Error::other(format!("a filter of system calls (the kernel needs CONFIG_SECCOMP_FILTER): {error}"));
    apply_filter(&filter()?).map_err(refused)
}

fn filter() -> io::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS.into_iter().map(|call| (call, Vec::new())).collect();
    // Memory, but none that could be run.
    let not_executable = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(EXECUTABLE), 0);
    let rule = not_executable.and_then(|condition| SeccompRule::new(vec![condition])).map_err(io::Error::other)?;
    rules.insert(libc::SYS_mmap, vec![rule]);
    let arch = std::env::consts::ARCH;
    let machine =
        arch.try_into().map_err(|_unknown| io::Error::other(format!("a filter of system calls is not known for {arch}")))?;
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, machine);
    filter.and_then(BpfProgram::try_from).map_err(io::Error::other)
}

const EXECUTABLE: u64 = libc::PROT_EXEC as u64;

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    /// Which forbidden thing the process that [`what_is_forbidden_ends_the_process`] starts does.
    const DOES: &str = "CONFINED_PROCESS_DOES";

    /// Calls of which none is to be had once confined; each is tried in a process of its own, with zeros that would do no harm.
    const FORBIDDEN: [(&str, libc::c_long); 16] = [
        ("openat", libc::SYS_openat),
        ("openat2", libc::SYS_openat2),
        ("socket", libc::SYS_socket),
        ("connect", libc::SYS_connect),
        ("clone", libc::SYS_clone),
        ("clone3", libc::SYS_clone3),
        ("execve", libc::SYS_execve),
        ("kill", libc::SYS_kill),
        ("ptrace", libc::SYS_ptrace),
        ("process_vm_writev", libc::SYS_process_vm_writev),
        ("pidfd_open", libc::SYS_pidfd_open),
        ("setresuid", libc::SYS_setresuid),
        ("mprotect", libc::SYS_mprotect),
        ("mount", libc::SYS_mount),
        ("bpf", libc::SYS_bpf),
        ("io_uring_setup", libc::SYS_io_uring_setup),
    ];

    /// Memory that can be run, which is forbidden by an argument.
    const RUNNABLE: &str = "mmap";

    fn call(name: &str) {
        let number = FORBIDDEN.iter().find(|(forbidden, _)| *forbidden == name).map(|(_, number)| *number);
        // SAFETY: zeros are no addresses; and a mapping is new, and nobody uses it.
        #[allow(unsafe_code)]
        unsafe {
            if let Some(number) = number {
                libc::syscall(number, 0_u64, 0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
            } else if name == RUNNABLE {
                let (private, nothing) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, std::ptr::null_mut());
                libc::mmap(nothing, 4096, libc::PROT_READ | libc::PROT_EXEC, private, -1, 0);
            }
        }
    }

    #[test]
    fn what_is_forbidden_ends_the_process() {
        if let Ok(does) = std::env::var(DOES) {
            confine(decoding_user()).unwrap();
            call(&does);
            // Not by way of the test's harness, which may do anything on its way out.
            nix::unistd::write(std::io::stdout(), b"went on").unwrap();
            // SAFETY: ends the process.
            #[allow(unsafe_code)]
            unsafe {
                libc::_exit(0)
            }
        }
        let does = |what: &str| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "decoder::confine::tests::what_is_forbidden_ends_the_process", "--nocapture"]);
            command.env(DOES, what).output().unwrap()
        };
        // What is allowed leads to the end of it.
        let allowed = does("nothing");
        assert!(allowed.status.success() && allowed.stdout.ends_with(b"went on"), "{allowed:?}");
        for what in FORBIDDEN.iter().map(|(name, _)| *name).chain([RUNNABLE]) {
            let ended = does(what);
            assert_eq!(ended.status.signal(), Some(libc::SIGSYS), "{what}: {ended:?}");
        }
    }
}
