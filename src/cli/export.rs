//! `export`: what is made for other systems, printed, written to a folder, or put in place there. The files are compiled
//! into the binary; `kibana.rs` knows how Kibana takes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::client::Failure;
use super::kibana::{self, Channel, Kibana, Wiring};
use super::times::span;
use crate::config::Sources;

#[derive(Debug, Args)]
pub struct Export {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Visualisations, dashboard and rules of Kibana: printed, written to a folder, or put into a running Kibana
    Kibana(Box<KibanaExport>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Index patterns, visualisations and the dashboard
    Objects,
    /// The alert rules
    Rules,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Credentials come from the environment: KIBANA_API_KEY, or KIBANA_USERNAME and KIBANA_PASSWORD.\n\
Without --apply and --out the objects are printed as NDJSON, ready for Kibana's own import; the rules with --only rules."
)]
struct KibanaExport {
    /// Only the objects or only the rules
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Write the files into this folder instead of printing them; files of the same name there are replaced
    #[arg(long, value_name = "FOLDER", conflicts_with = "apply")]
    out: Option<PathBuf>,
    /// Put them into the Kibana of --kibana-url; what is there already under the same ids is brought up to date
    #[arg(long, requires = "kibana_url")]
    apply: bool,
    /// Address of Kibana, with its base path if it has one
    #[arg(long, value_name = "URL", requires = "apply")]
    kibana_url: Option<String>,
    /// The space to put them into; without it the default one
    #[arg(long, requires = "apply")]
    space: Option<String>,
    /// A file of certificates in PEM that Kibana's own is trusted by, beside those of this machine
    #[arg(long, value_name = "FILE", requires = "apply")]
    ca_file: Option<PathBuf>,
    /// The connector that the rules send through, as email=ID or slack=ID; may be given for each. Without one the rules
    /// are made without actions, and those that rules there have already are kept
    #[arg(long = "connector", value_name = "CHANNEL=ID", value_parser = connector, requires = "apply")]
    connectors: Vec<(Channel, String)>,
    /// The address that the e-mails of all rules go to
    #[arg(long, value_name = "ADDRESS", requires = "apply")]
    operations: Option<String>,
    /// The address that the e-mails of the critical rules go to as well
    #[arg(long, value_name = "ADDRESS", requires = "apply")]
    management: Option<String>,
    /// Time each answer of Kibana may take
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = span, requires = "apply")]
    timeout: Duration,
}

impl KibanaExport {
    fn wants(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }

    /// Who the rules tell, if anyone.
    fn wiring(&self) -> Result<Option<Wiring>, Failure> {
        let mut connectors = BTreeMap::new();
        for (channel, id) in &self.connectors {
            if connectors.insert(*channel, id.clone()).is_some() {
                return Err(Failure::wrong(format!("--connector names {} twice", channel.as_str())));
            }
        }
        let addresses = match (&self.operations, &self.management) {
            (Some(operations), Some(management)) => Some((operations.clone(), management.clone())),
            (None, None) if !connectors.contains_key(&Channel::Email) => None,
            _ => {
                return Err(Failure::wrong(
                    "--connector email=ID, --operations ADDRESS and --management ADDRESS are given together: the \
                     addresses in the file are examples",
                ));
            }
        };
        if addresses.is_some() && !connectors.contains_key(&Channel::Email) {
            return Err(Failure::wrong("--operations and --management need --connector email=ID"));
        }
        Ok((!connectors.is_empty()).then_some(Wiring { connectors, addresses }))
    }
}

fn connector(text: &str) -> Result<(Channel, String), String> {
    let (channel, id) = text.split_once('=').ok_or("must be email=ID or slack=ID")?;
    let channel = Channel::named(channel.trim()).ok_or("must be email=ID or slack=ID")?;
    match id.trim() {
        "" => Err(format!("the id of the {} connector is empty", channel.as_str())),
        id => Ok((channel, id.to_owned())),
    }
}

/// Prints, writes or applies.
///
/// # Errors
/// Arguments that cannot be used, files that cannot be written, and what Kibana refused.
pub async fn export(sources: &Sources, arguments: Export) -> Result<ExitCode, Failure> {
    let Command::Kibana(wanted) = arguments.command;
    if let Some(url) = &wanted.kibana_url {
        let kibana = Kibana::open(sources, url, wanted.space.as_deref(), wanted.ca_file.as_deref(), wanted.timeout)?;
        let wiring = wanted.wiring()?;
        return kibana.apply(wanted.wants(Part::Objects), wanted.wants(Part::Rules), wiring.as_ref()).await;
    }
    match &wanted.out {
        Some(folder) => {
            let files =
                [(Part::Objects, "saved-objects.ndjson", kibana::OBJECTS), (Part::Rules, "rules.json", kibana::RULES)];
            for (_, name, text) in files.into_iter().filter(|(part, ..)| wanted.wants(*part)) {
                write(folder, name, text)?;
            }
        }
        None if wanted.only == Some(Part::Rules) => say!("{}", kibana::RULES.trim_end()),
        None => say!("{}", kibana::OBJECTS.trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), Failure> {
    let path = folder.join(name);
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, text));
    written.map_err(|error| Failure::wrong(format!("--out: {} cannot be written: {error}", path.display())))?;
    say!("wrote {}", path.display());
    Ok(())
}
