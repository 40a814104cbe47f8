//! The `ringwire` program: everything it does is in the library, see `ringwire::cli`.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // A panic on any thread ends the process, once it has been printed: what is left of a server that goes
    // on without one of its threads helps nobody, and a supervisor starts a whole one.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
    ringwire::cli::main()
}
