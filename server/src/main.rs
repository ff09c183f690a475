//! The one binary of Holdfast.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Chunks of megabytes are allocated by one thread and freed by another; an allocator that keeps what each thread freed
/// holds several times the budget (decision 0009).
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    holdfast::main()
}
