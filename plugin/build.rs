//! Gives the library its name for the loader, and keeps it loaded: threads and thread-locals outlive dlclose(3).

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libwiremamba.so.0");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
