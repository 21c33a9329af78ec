//! The stand-in for Google as a program: for demonstrations, for tests in containers, and for trying things by hand.
//!
//! It writes what a client needs into a directory, says `ready` with its addresses, and serves until it is told to
//! stop. See `stand_in.rs` for what it serves.

mod stand_in;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use stand_in::{Options, StandIn};

/// A stand-in for Google: sign-in page, token endpoint, metadata server and a Python repository.
#[derive(Parser)]
#[command(name = "stand-in")]
struct Arguments {
    /// Address for TLS; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Address of the sign-in page, which is plain HTTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    authorization: SocketAddr,
    /// Address of the metadata server
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    metadata: SocketAddr,
    /// Run without a metadata server
    #[arg(long, conflicts_with = "metadata")]
    no_metadata: bool,
    /// One more DNS name or address for the certificate, beside localhost and 127.0.0.1
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// The origin that key files name for their token endpoint, if not https://localhost:PORT
    #[arg(long, value_name = "ORIGIN")]
    public_origin: Option<String>,
    /// An account to choose on the sign-in page, if not developer@acme.example alone; may be repeated
    #[arg(long = "account", value_name = "EMAIL")]
    accounts: Vec<String>,
    /// Register a desktop client and write its file, as Google's console offers it, here
    #[arg(long, value_name = "FILE")]
    client_file: Option<PathBuf>,
    /// Where to write ca.pem, client.json, service-account.json, adc.json and secrets.txt
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: the stand-in failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> io::Result<()> {
    let mut options = Options {
        listen: arguments.listen,
        authorization: arguments.authorization,
        metadata: (!arguments.no_metadata).then_some(arguments.metadata),
        public_origin: arguments.public_origin,
        ..Options::default()
    };
    options.names.extend(arguments.names);
    let with_metadata = options.metadata.is_some();
    let stand_in = StandIn::try_start(options)?;
    for email in &arguments.accounts {
        stand_in.add_account(email);
    }
    if let Some(path) = &arguments.client_file {
        write_private(path, &stand_in.desktop_client().file)?;
    }
    if let Some(directory) = &arguments.directory {
        write_files(&stand_in, directory)?;
    }

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before the line that tells others they may now stop us.
        let stopped = stop_signal()?;
        let mut ready = format!("ready {}", stand_in.origin());
        if with_metadata {
            ready.push_str(" metadata ");
            ready.push_str(&stand_in.metadata_address());
        }
        ready.push_str(" authorization ");
        ready.push_str(&stand_in.authorization_endpoint());
        let mut output = io::stdout().lock();
        writeln!(output, "{ready}")?;
        output.flush()?;
        drop(output);
        stopped.await;
        Ok(())
    })
}

fn write_files(stand_in: &StandIn, directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let key = stand_in.service_account_key("builder@acme.iam.gserviceaccount.com");
    let credentials = stand_in.authorized_user("developer@acme.example");
    std::fs::write(directory.join("ca.pem"), stand_in.ca_pem())?;
    write_private(&directory.join("client.json"), &stand_in.desktop_client().file)?;
    write_private(&directory.join("service-account.json"), &key)?;
    write_private(&directory.join("adc.json"), &credentials)?;
    stand_in.write_secrets_to(&directory.join("secrets.txt"))
}

fn write_private(path: &Path, content: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(content.as_bytes())
}

#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        // Without a console there is nothing to wait for, and serving on is what is wanted.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
