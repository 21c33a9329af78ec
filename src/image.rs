//! valetkey as a container image that the Docker Engine, podman and buildah load with no registry in between:
//! `valetkey docker image | docker load`. A build then takes the program from it with
//! `RUN --mount=type=bind,from=valetkey.invalid/valetkey,source=/keyring,target=…`, which leaves nothing in a layer.
//!
//! The name is one that no registry can have: a builder that does not find it fetches what is called so from somewhere,
//! and `valetkey` alone would be somebody's image on the public hub. No name server knows `.invalid` (RFC 6761).
//!
//! The image holds one file under three names and nothing else: no shell, no C library, no certificates. So the
//! program must bring everything that it needs, which is read from its ELF headers and never assumed. What comes
//! out depends on the program alone: the same program gives the same bytes, digests and all.

pub mod archive;
pub mod program;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use self::archive::{layer_digest, write};
pub use self::program::{Platform, Program};
use crate::error::shown::{shown, shown_path};
use crate::error::{Fault, Kind};

/// The name of the image, and of the build context in its place.
pub const IMAGE: &str = "valetkey.invalid/valetkey";

/// Why there is no image.
#[derive(Debug, Error)]
pub enum ImageFault {
    /// No such platform, or none that this program is built for.
    #[error("{:?} is not a platform that valetkey runs on in a container", shown(.0))]
    UnknownPlatform(String),
    /// The file is missing, is none, or others keep it to themselves.
    #[error("cannot read {}", shown_path(path))]
    Read { path: PathBuf, source: io::Error },
    /// Somebody named an archive, a script, or a program of another system.
    #[error("{} is not a Linux program: {reason}", shown_path(path))]
    NotLinux { path: PathBuf, reason: String },
    /// The image would hold a program that nothing there can start.
    #[error("{} is not static: it needs {needs}, which the image does not have", shown_path(path))]
    NotStatic { path: PathBuf, needs: String },
    /// Built for another machine.
    #[error("{} is for {found}, not for {asked}", shown_path(path))]
    OtherPlatform { path: PathBuf, found: String, asked: Platform },
    /// Whoever reads went away, or a disk is full.
    #[error("cannot write the image")]
    Write(#[source] io::Error),
}

impl Fault for ImageFault {
    fn kind(&self) -> Kind {
        match self {
            Self::UnknownPlatform(_) | Self::NotLinux { .. } | Self::OtherPlatform { .. } => Kind::Usage,
            Self::NotStatic { .. } => Kind::Refused,
            Self::Read { .. } | Self::Write(_) => Kind::Local,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownPlatform(_) => "name linux/amd64 or linux/arm64".to_owned(),
            Self::NotLinux { .. } => {
                "name a static Linux build of valetkey with --binary, as the release has it".to_owned()
            }
            Self::NotStatic { .. } => {
                "take the static build of the release, or make one with packaging/build-static, and name it with --binary"
                    .to_owned()
            }
            Self::OtherPlatform { asked, .. } => {
                format!("name a valetkey that was built for {asked} with --binary")
            }
            Self::Read { .. } | Self::Write(_) => return None,
        })
    }
}
