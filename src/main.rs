//! The `ringwire` program: everything it does is in the library, see `ringwire::cli`.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    ringwire::cli::main()
}
