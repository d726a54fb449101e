//! Boot control through a program of the integrator's that knows the loader, with the verbs of RAUC's custom backend.
//!
//! ```text
//! PROGRAM get-primary               prints the name of the slot that the loader starts next
//! PROGRAM set-primary NAME          the loader starts it next, whatever its state was
//! PROGRAM get-state NAME            prints good or bad: the loader may start it, or not
//! PROGRAM set-state NAME good|bad   good: its start succeeded, it is not given up any more · bad: it is never started
//! PROGRAM get-current               prints the name of the slot that was started (may be missing: then it fails, or prints nothing)
//! ```
//!
//! Exit code 0 is success; anything else is an error that shows what the program said. Each call has 30 seconds and 4 KiB of output, a
//! process group of its own, `PATH` as its whole environment, and nothing on its input. When it ends, or its time does, what is left of
//! its group is killed.
//!
//! **What is required of the program**, because nothing here can promise it for code of somebody else:
//! - each of its changes is whole or not at all under a power cut, and is on the medium when it exits;
//! - what it prints is read from where the loader reads, and shows what the loader changed;
//! - a slot that was only made primary is given up by the loader after so many boots (`[boot.custom] tries`), unless it is set good; then
//!   `get-primary` names the other one, or `get-state` turns from good to bad;
//! - a loader that counts the boots of good slots as well has them given back by `set-state NAME good`, which is called for the running
//!   slot in each boot.
//!
//! **Who counts the tries**: the loader. It cannot be asked how many are left, so a slot on trial has all of them until it has none.
//!
//! **What each fact is told by**: the program, as far as it can tell; the rest stands in a file of ours ([`marks`]): which slot is on
//! trial, which was marked good or bad, where the loader goes back to, whether one was ever armed, and which slot is *open*, which is one
//! that is about to be made primary, or another one instead of it. With `p` for what `get-primary` says, and `good`, `bad` for `get-state`:
//!
//! | the file says of a slot | the program says | it stands as | why |
//! |---|---|---|---|
//! | (no file) | anything | blank | nothing was ever marked: a factory disk; `p` is the primary |
//! | open | `p` | pending | it was made primary |
//! | open | not `p`, and it runs | spent | the change that armed it was cut short after it was made primary |
//! | open | not `p` | as its mark says | it was not made primary |
//! | armed | `p`, and not (good when it was armed, now bad) | pending | the loader starts it |
//! | armed | else | spent | the loader has given it up, or somebody made the other one primary |
//! | good | good | good | |
//! | good | bad, and it runs | good | this boot is counted |
//! | good | bad | blank | the loader has given it up |
//! | bad | anything | bad | what failed is not healthy because somebody lets the loader start it |
//! | unmarked | anything | blank | what nobody saw running is never called good, or the floor would rise to it |
//!
//! What is next is always what the program says; where it names a slot that it calls bad, and that is not on trial, the other one is the
//! primary, if that is good. Where it says good of a slot that stands as blank or bad, the next change of it says bad
//! again. A state folder that is lost takes the file with it, so that the host looks like one from the factory.
//!
//! **In which order** things are changed; *before* and *after* mean: reads as before, as after the verb.
//!
//! | verb | changes in order | reads after each |
//! |---|---|---|
//! | arm b | 1. file: open b, ever armed · 2. set-primary b · 3. file: b armed | before · after · after |
//! | mark good b | 1. set-state b good · 2. set-primary b, if it is not · 3. file: b good | its trial goes on · its trial goes on · after |
//! | mark bad b | 1. file: b bad · 2. set-primary a · 3. set-state b bad | b bad, and next again if it was · after · after |
//! | disarm b | 1. set-primary a, if it is not · 2. set-state b bad · 3. file: b unmarked | a next · after · after |
//! | disarm b, armed | 1. file: open b, unmarked · 2. set-primary a · 3. set-state b bad · 4. file: not open | before · after · after · after |
//!
//! After each change the program is asked again: an answer that is not what was set ends the verb with an error.
//!
//! **Never**: calls the program by a relative path or through a shell, calls `set-state … good` for a slot that was not seen running, or
//! repeats a change that is in place.

pub(super) mod control;
pub mod marks;
mod program;
mod view;

pub(crate) use control::{Custom, CustomSpec};
