//! For programs that read captures and know nothing of models: preloaded (ld.so(8)), a file name that begins with
//! `wiremamba:` is a capture that is generated when it is first opened, and every other name goes to libc untouched.
//!
//! [`names`] says which name means what, [`captures`] generates into memory files, [`calls`] are the functions of libc
//! that take a file's name. A generated name becomes the name of its memory file, so that size, seeking, opening twice
//! and everything else is the kernel's own work.

mod calls;
mod captures;
mod names;
