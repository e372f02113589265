//! The program: hands its arguments over to [`as_infrastructure_service::cli`].

fn main() -> std::process::ExitCode {
    as_infrastructure_service::cli::main()
}
