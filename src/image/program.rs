//! A program that can run where there is nothing else: Linux, static, and of a known machine. All of it is read
//! from the file's ELF headers.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use elf::ElfBytes;
use elf::abi::{DT_NEEDED, EM_AARCH64, EM_X86_64, ET_DYN, ET_EXEC, PT_DYNAMIC, PT_INTERP, PT_LOAD};
use elf::abi::{ELFOSABI_LINUX, ELFOSABI_SYSV};
use elf::dynamic::DynamicTable;
use elf::endian::LittleEndian;
use elf::file::Class;

use super::ImageFault;
use crate::paths::open_regular;

/// What a container runs on, in Docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    Amd64,
    Arm64,
}

impl Platform {
    /// The name of the machine in an image's configuration.
    #[must_use]
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    fn of_machine(machine: u16) -> Option<Self> {
        match machine {
            EM_X86_64 => Some(Self::Amd64),
            EM_AARCH64 => Some(Self::Arm64),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture())
    }
}

impl FromStr for Platform {
    type Err = ImageFault;

    /// `linux/arm64/v8` is what Docker itself calls `linux/arm64`.
    fn from_str(text: &str) -> Result<Self, ImageFault> {
        match text {
            "linux/amd64" => Ok(Self::Amd64),
            "linux/arm64" | "linux/arm64/v8" => Ok(Self::Arm64),
            _ => Err(ImageFault::UnknownPlatform(text.to_owned())),
        }
    }
}

/// A program that was looked at and found fit for the image.
pub struct Program {
    pub(super) bytes: Vec<u8>,
    pub(super) platform: Platform,
}

impl Program {
    /// The program that runs right now, whatever has become of its file since.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn running(asked: Option<Platform>) -> Result<Self, ImageFault> {
        let unreadable = |source| ImageFault::Read { path: "this program".into(), source };
        let path = std::env::current_exe().map_err(unreadable)?;
        // On Linux the kernel knows the file even where its name is gone or means another one by now.
        let kernel = Path::new("/proc/self/exe");
        let file = File::open(kernel).or_else(|_| File::open(&path)).map_err(unreadable)?;
        Self::load(&path, file, asked)
    }

    /// Reads a program and looks at it.
    ///
    /// # Errors
    /// When it cannot be read, or the image could not run it on the platform that was asked for.
    pub fn read(path: &Path, asked: Option<Platform>) -> Result<Self, ImageFault> {
        let file =
            open_regular(path, false).map_err(|source| ImageFault::Read { path: path.to_owned(), source })?;
        Self::load(path, file, asked)
    }

    fn load(path: &Path, file: File, asked: Option<Platform>) -> Result<Self, ImageFault> {
        let unreadable = |source| ImageFault::Read { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > LARGEST {
            return Err(unreadable(io::Error::other(format!("it is larger than {} MiB", LARGEST >> 20))));
        }
        Self::examine(path, bytes, asked)
    }

    fn examine(path: &Path, bytes: Vec<u8>, asked: Option<Platform>) -> Result<Self, ImageFault> {
        let headers = Headers::parse(&bytes)
            .map_err(|reason| ImageFault::NotLinux { path: path.to_owned(), reason })?;
        // What was asked for comes first: nobody wants a static program of the wrong machine.
        let platform = match (Platform::of_machine(headers.machine), asked) {
            (Some(found), None) => found,
            (Some(found), Some(asked)) if found == asked => found,
            (found, Some(asked)) => {
                let found = found.map_or_else(|| headers.unknown_machine(), |found| found.to_string());
                return Err(ImageFault::OtherPlatform { path: path.to_owned(), found, asked });
            }
            (None, None) => return Err(ImageFault::UnknownPlatform(headers.unknown_machine())),
        };
        if let Some(needs) = headers.needs {
            return Err(ImageFault::NotStatic { path: path.to_owned(), needs });
        }
        Ok(Self { bytes, platform })
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    #[must_use]
    pub fn platform(&self) -> Platform {
        self.platform
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("bytes", &self.bytes.len()).field("platform", &self.platform).finish()
    }
}

/// What the ELF headers say.
#[derive(Debug)]
struct Headers {
    machine: u16,
    /// The first thing that somebody else would have to bring.
    needs: Option<String>,
}

impl Headers {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let malformed = |error: elf::ParseError| format!("its headers are malformed ({error})");
        if !bytes.starts_with(b"\x7fELF") {
            return Err("it is no ELF file".to_owned());
        }
        // Both machines that an image can be for count from the little end.
        let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(malformed)?;
        let head = &file.ehdr;
        if head.class != Class::ELF64 {
            return Err("it has 32 bits".to_owned());
        }
        if ![ELFOSABI_SYSV, ELFOSABI_LINUX].contains(&head.osabi) || ![ET_EXEC, ET_DYN].contains(&head.e_type)
        {
            return Err("it is an ELF file of another sort".to_owned());
        }
        let segments = file
            .segments()
            .filter(|segments| segments.iter().any(|segment| segment.p_type == PT_LOAD))
            .ok_or("it has nothing to load")?;
        let mut needs = None;
        for segment in segments.iter().filter(|segment| [PT_INTERP, PT_DYNAMIC].contains(&segment.p_type)) {
            let data = file.segment_data(&segment).map_err(malformed)?;
            if segment.p_type == PT_INTERP {
                let path: &[u8] = data.split(|byte| *byte == 0).next().unwrap_or_default();
                needs = Some(format!("the loader {}", String::from_utf8_lossy(path)));
            } else if needs.is_none()
                && DynamicTable::new(head.endianness, head.class, data).iter().any(|it| it.d_tag == DT_NEEDED)
            {
                needs = Some("shared libraries".to_owned());
            }
        }
        Ok(Self { machine: head.e_machine, needs })
    }

    fn unknown_machine(&self) -> String {
        elf::to_str::e_machine_to_human_str(self.machine)
            .map_or_else(|| format!("machine {}", self.machine), str::to_owned)
    }
}

/// A release is a tenth of this, with debugging information.
const LARGEST: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An ELF file with nothing but headers: these segments, with their contents behind them.
    fn elf(machine: u16, kind: u16, segments: &[(u32, &[u8])]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend(kind.to_le_bytes());
        file.extend(machine.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        // Entry point, program headers right behind this one, no sections, no flags.
        for word in [0_u64, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, u16::try_from(segments.len()).unwrap(), 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let mut at = 64 + 56 * segments.len() as u64;
        for (sort, content) in segments {
            file.extend(sort.to_le_bytes());
            file.extend(4_u32.to_le_bytes());
            let size = content.len() as u64;
            for word in [at, 0, 0, size, size, 8] {
                file.extend(word.to_le_bytes());
            }
            at += size;
        }
        for (_, content) in segments {
            file.extend(*content);
        }
        file
    }

    fn dynamic(tags: &[i64]) -> Vec<u8> {
        tags.iter().flat_map(|tag| [tag.to_le_bytes(), [1; 8]]).flatten().collect()
    }

    fn verdict(bytes: Vec<u8>, asked: Option<Platform>) -> Result<Platform, String> {
        let program = Program::examine(Path::new("FILE"), bytes, asked);
        program.map(|program| program.platform()).map_err(|error| error.to_string())
    }

    const DT_NULL: i64 = 0;
    const DT_FLAGS: i64 = 30;

    #[test]
    fn a_static_program_is_taken_for_its_own_platform() {
        let relocatable = dynamic(&[DT_FLAGS, DT_NULL]);
        for (machine, platform) in [(EM_X86_64, Platform::Amd64), (EM_AARCH64, Platform::Arm64)] {
            for asked in [None, Some(platform)] {
                let fixed = elf(machine, ET_EXEC, &[(PT_LOAD, b"code")]);
                let movable = elf(machine, ET_DYN, &[(PT_LOAD, b"code"), (PT_DYNAMIC, &relocatable)]);
                assert_eq!(verdict(fixed, asked), Ok(platform));
                assert_eq!(verdict(movable, asked), Ok(platform));
            }
        }
    }

    #[test]
    fn a_program_that_needs_a_loader_or_a_library_is_refused() {
        let libraries = dynamic(&[DT_FLAGS, DT_NEEDED, DT_NULL]);
        let loader: &[u8] = b"/lib/ld-musl-x86_64.so.1\0";
        let not_static =
            |needs: &str| Err(format!("FILE is not static: it needs {needs}, which the image does not have"));
        let only_libraries = elf(EM_X86_64, ET_DYN, &[(PT_LOAD, b""), (PT_DYNAMIC, &libraries)]);
        assert_eq!(verdict(only_libraries, None), not_static("shared libraries"));
        for segments in [
            vec![(PT_LOAD, loader), (PT_INTERP, loader)],
            vec![(PT_INTERP, loader), (PT_DYNAMIC, &libraries), (PT_LOAD, loader)],
            vec![(PT_DYNAMIC, &libraries), (PT_INTERP, loader), (PT_LOAD, loader)],
        ] {
            let needs = not_static("the loader /lib/ld-musl-x86_64.so.1");
            assert_eq!(verdict(elf(EM_X86_64, ET_DYN, &segments), None), needs);
        }
    }

    #[test]
    fn a_program_for_another_machine_is_refused_by_the_name_of_that_machine() {
        let other = elf(EM_AARCH64, ET_EXEC, &[(PT_LOAD, b""), (PT_INTERP, b"/lib/ld.so\0")]);
        assert_eq!(
            verdict(other, Some(Platform::Amd64)),
            Err("FILE is for linux/arm64, not for linux/amd64".to_owned())
        );
        let strange = verdict(elf(243, ET_EXEC, &[(PT_LOAD, b"")]), Some(Platform::Amd64)).unwrap_err();
        assert!(strange.contains("RISC-V"), "{strange}");
    }

    #[test]
    fn what_is_no_linux_program_is_refused() {
        let library = elf(EM_X86_64, 1, &[(PT_LOAD, b"")]);
        let mut small = elf(EM_X86_64, ET_EXEC, &[(PT_LOAD, b"")]);
        small[4] = 1;
        let mut foreign = elf(EM_X86_64, ET_EXEC, &[(PT_LOAD, b"")]);
        foreign[7] = 9;
        let mut big_end = elf(EM_X86_64, ET_EXEC, &[(PT_LOAD, b"")]);
        big_end[5] = 2;
        let short = elf(EM_X86_64, ET_EXEC, &[(PT_LOAD, b""), (PT_INTERP, b"/lib/ld.so\0")]);
        let short = short[..short.len() - 4].to_vec();
        let empty = elf(EM_X86_64, ET_EXEC, &[]);
        for bytes in [Vec::new(), b"#!/bin/sh\n".to_vec(), library, small, foreign, big_end, short, empty] {
            let fault = Program::examine(Path::new("FILE"), bytes, None).unwrap_err();
            assert!(matches!(fault, ImageFault::NotLinux { .. }), "{fault}");
        }
    }

    #[test]
    fn platforms_are_read_in_dockers_words() {
        for (text, platform) in [
            ("linux/amd64", Platform::Amd64),
            ("linux/arm64", Platform::Arm64),
            ("linux/arm64/v8", Platform::Arm64),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap(), platform);
        }
        for text in ["", "amd64", "linux", "linux/arm", "linux/386", "windows/amd64", "LINUX/AMD64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(tail in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = b"\x7fELF\x02\x01\x01\x00".to_vec();
            bytes.extend(tail);
            let _ = Headers::parse(&bytes);
        }

        #[test]
        fn no_damage_makes_the_parser_panic(at in 4_usize..180, byte in any::<u8>(), end in 0_usize..260) {
            let libraries = dynamic(&[DT_FLAGS, DT_NEEDED, DT_NULL]);
            let mut bytes = elf(EM_X86_64, ET_DYN, &[(PT_LOAD, b""), (PT_INTERP, b"/lib/ld.so\0"), (PT_DYNAMIC, &libraries)]);
            let at = at.min(bytes.len() - 1);
            bytes[at] = byte;
            bytes.truncate(end);
            let _ = Headers::parse(&bytes);
        }
    }
}
