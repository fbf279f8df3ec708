//! Gives the library its name for the loader.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libwiremamba_pcap.so.0");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
