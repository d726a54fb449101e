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
