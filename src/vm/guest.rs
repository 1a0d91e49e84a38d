//! A guest before it starts: which kernel, on which backend, and what is in its memory.
#![forbid(unsafe_code)]

use crate::accel::{
    Accel, AccelError, AccelKind, GuestArch, InterruptSink, PlatformBackend, arm64,
    select::{self, Choice},
};
use crate::config::{KernelSource, VmConfig};
use crate::devices::acpi::{self, AcpiSpec};
use crate::devices::arm64::device_tree::{self, Chosen, Description};
use crate::loader::{self, BootState, KernelImage, LoadError, LoadRequest};
use crate::memory::{self, ARM64_RAM, GuestMemory};

use super::extension::Extension;
use super::{VmError, reset_vector};

/// The guests that run when no kernel is named; their sources are in `images/builtin`.
const BUILTIN_X86: &[u8] = include_bytes!("../../images/builtin/builtin.elf");
const BUILTIN_ARM64: &[u8] = include_bytes!("../../images/builtin/builtin-arm64.elf");

/// A guest in its memory, about to start.
pub struct Guest {
    pub backend: PlatformBackend,
    pub memory: GuestMemory,
    pub boot: BootState,
}

/// What is to be booted.
pub enum Kernel {
    /// The built-in guest, which there is for every architecture.
    Builtin,
    /// A kernel's file, and what it is for.
    File(KernelImage, GuestArch),
}

impl Kernel {
    /// The architecture of the machine that it needs, unless it runs on every one.
    pub fn wants(&self) -> Option<GuestArch> {
        match self {
            Self::Builtin => None,
            Self::File(_, guest) => Some(*guest),
        }
    }

    fn into_image(self, guest: GuestArch) -> KernelImage {
        match (self, guest) {
            (Self::File(image, _), _) => image,
            (Self::Builtin, GuestArch::X86_64) => KernelImage::builtin(BUILTIN_X86),
            (Self::Builtin, GuestArch::Aarch64) => KernelImage::builtin(BUILTIN_ARM64),
        }
    }
}

/// Opens the kernel and finds out what it is for. A flat binary is for x86-64, whatever is in it.
pub fn open_kernel(config: &VmConfig) -> Result<Kernel, LoadError> {
    let KernelSource::File(path) = &config.kernel else { return Ok(Kernel::Builtin) };
    let image = KernelImage::open(path)?;
    let guest = if config.flat.is_some() { GuestArch::X86_64 } else { loader::guest_arch(&image)? };
    Ok(Kernel::File(image, guest))
}

/// The architecture of the guest that `config` describes; `None` is one that runs on every one.
///
/// # Errors
/// When the kernel cannot be read or is none.
pub fn guest_arch(config: &VmConfig) -> Result<Option<GuestArch>, LoadError> {
    Ok(open_kernel(config)?.wants())
}

/// The backend that is asked for, and why it is taken.
pub fn create_backend(kind: AccelKind, kernel: &Kernel) -> Result<Choice, VmError> {
    backend_for(kind, kernel.wants()).map_err(|reason| match (kernel, reason) {
        (Kernel::File(image, _), reason @ (AccelError::OtherGuest { .. } | AccelError::NoneUsable(_))) => {
            VmError::NoBackend { kernel: image.name().to_owned(), reason }
        }
        (_, reason) => reason.into(),
    })
}

fn backend_for(kind: AccelKind, wanted: Option<GuestArch>) -> Result<Choice, AccelError> {
    if kind == AccelKind::Auto {
        return select::choose(wanted);
    }
    if let (Some(wanted), Some(runs)) = (wanted, PlatformBackend::guest_of(kind))
        && wanted != runs
    {
        return Err(AccelError::OtherGuest {
            kind,
            runs,
            wanted,
            remedy: match wanted {
                GuestArch::X86_64 => "Use `--accel soft`",
                GuestArch::Aarch64 => "Use an AArch64 host with a usable KVM, and `--accel kvm`",
            },
        });
    }
    Ok(Choice { backend: PlatformBackend::new(kind)?, reason: format!("{kind}, as asked for") })
}

/// Fresh memory with the tables and the kernel in it.
pub fn load(
    config: &VmConfig,
    kernel: Kernel,
    mut backend: PlatformBackend,
    extension: Option<&(dyn Extension + '_)>,
) -> Result<Guest, VmError> {
    let file = config.initrd.as_deref().map(KernelImage::open).transpose()?;
    let initrd = extension.and_then(|extension| extension.initrd()).or(file.as_ref());
    let guest = backend.guest();
    let kernel = kernel.into_image(guest);
    let memory = memory::allocate_for(guest, config.memory)?;
    let boot = match backend.interrupt_sink() {
        InterruptSink::Lapic(_) => load_pc(config, kernel, initrd, &memory)?,
        InterruptSink::Gic(gic) => {
            let machine = Description {
                memory: ARM64_RAM..ARM64_RAM.saturating_add(config.memory),
                cpus: config.cpus,
                gic: gic.version,
                serial: serial_ports(config),
            };
            load_arm64(config, kernel, initrd, &memory, &machine)?
        }
    };
    backend.map_memory(&memory)?;
    Ok(Guest { backend, memory, boot })
}

fn load_pc(
    config: &VmConfig,
    kernel: KernelImage,
    initrd: Option<&KernelImage>,
    memory: &GuestMemory,
) -> Result<BootState, VmError> {
    let unpacked = if config.flat.is_none() { loader::unpack(&kernel)? } else { None };
    reset_vector::write(memory)?;
    let spec = AcpiSpec { cpus: config.cpus, serial: serial_ports(config), virtio_mmio: Vec::new() };
    let rsdp = acpi::write_tables(memory, &spec)?;
    Ok(loader::load(&LoadRequest {
        kernel: unpacked.map_or(kernel, |(unpacked, _)| unpacked),
        initrd,
        cmdline: config.cmdline.as_deref(),
        modules: &config.modules,
        flat: config.flat,
        decompress: config.decompress,
        memory,
        rsdp: Some(rsdp),
    })?)
}

fn load_arm64(
    config: &VmConfig,
    kernel: KernelImage,
    initrd: Option<&KernelImage>,
    memory: &GuestMemory,
    machine: &Description,
) -> Result<BootState, VmError> {
    if config.cpus > arm64::MAX_CPUS {
        return Err(VmError::TooManyCpus { cpus: config.cpus, limit: arm64::MAX_CPUS });
    }
    if !config.modules.is_empty() {
        return Err(VmError::Load(LoadError::Unsupported {
            name: kernel.name().to_owned(),
            reason: "AArch64 kernels take no modules".to_owned(),
            remedy: "Leave `--module` out",
        }));
    }
    Ok(loader::arm64::load(&loader::arm64::Request {
        kernel,
        initrd,
        cmdline: config.cmdline.as_deref(),
        memory,
        device_tree: &|told| {
            let mut seed = [0; 64];
            let seed = getrandom::fill(&mut seed).is_ok().then_some(seed);
            let chosen = Chosen { cmdline: told.cmdline, initrd: told.initrd.clone(), seed };
            device_tree::write(machine, &chosen).map_err(|error| error.to_string())
        },
    })?)
}

/// Which of COM1 to COM4 there are.
fn serial_ports(config: &VmConfig) -> [bool; 4] {
    std::array::from_fn(|port| config.serial.get(port).is_some_and(Option::is_some))
}
