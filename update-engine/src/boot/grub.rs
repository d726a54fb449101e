//! Boot control through GRUB's environment block.
//!
//! **Who counts the tries**: `grub.cfg`, with the snippet `dist/grub/ota.cfg`: it spends one before it starts a slot on trial, and does not
//! start that slot if the try cannot be written. A slot that is good is not counted. Layout: [`block`]; variables: `grub/variables.rs`.
//!
//! **What is atomic**: every change. The file is written in place, as one write of its 1024 bytes of which only the first 512 differ, then
//! flushed: the file system's own structures do not change, and a disk writes 512 bytes as a whole. Truncating the file, or writing
//! another one and renaming it, leaves states on FAT in which there is none. GRUB writes the same two sectors without a flush; if that
//! is lost in a power cut, one try less is counted, which is harmless.
//!
//! ```text
//! 1. the block, in place                                              flush
//! 2. its copy (`copy`), in place: what the loader reads where the block is damaged     flush
//! ```
//!
//! The copy is brought up to date after the block, when a slot becomes primary: read alone it names a slot that was good. A block that is
//! damaged is read from the copy, said as a weakness, and mended by the next change.
//!
//! A block of another length, which somebody else has made, cannot be mended in its place: the next change puts a new file there, and has
//! the copy say what was good before. Where a power cut leaves no block meanwhile, the copy is read.
//!
//! **Never**: creates the block where there is none, replaces one of 1024 bytes, or touches variables of others.

pub mod block;
mod control;
mod variables;

pub use block::{Block, BlockError};
pub(crate) use control::GrubEnv;
pub(crate) use variables::Spelling;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// Words of the script language itself, and commands of GRUB's kernel: no module has them.
    const OF_THE_SHELL: [&str; 8] = ["if", "elif", "else", "fi", "function", "}", "set", "ota_start"];
    /// Which module has which command, as GRUB's `command.lst` says.
    const MODULES: [(&str, &str); 10] = [
        ("[", "test"),
        ("boot", "boot"),
        ("echo", "echo"),
        ("load_env", "loadenv"),
        ("probe", "probe"),
        ("reboot", "reboot"),
        ("regexp", "regexp"),
        ("save_env", "loadenv"),
        ("sleep", "sleep"),
        ("source", "configfile"),
    ];

    #[test]
    fn the_script_for_grub_lists_the_modules_of_all_its_commands_and_no_other() {
        let script = include_str!("../../../dist/grub/ota.cfg");
        let listed = script.lines().find_map(|line| line.strip_prefix("# Modules: ")).unwrap();
        let lines = script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let commands = lines.flat_map(|line| line.split("; ")).map(|command| {
            let mut words = command.split(' ').skip_while(|word| ["if", "elif", "then", "else", "!"].contains(word));
            words.next().unwrap_or("if")
        });
        let modules = commands.filter(|command| !OF_THE_SHELL.contains(command)).map(|command| {
            let known = MODULES.iter().find(|(known, _)| *known == command);
            known.unwrap_or_else(|| panic!("{command}: which module?")).1
        });
        // Partitions, and the script language.
        let used: BTreeSet<&str> = modules.chain(["part_gpt", "normal"]).collect();
        assert_eq!(listed.split(' ').collect::<BTreeSet<_>>(), used);
    }
}
