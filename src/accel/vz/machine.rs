//! One virtual machine of the framework. All its calls are made on a queue of its own.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use block2::RcBlock;
use dispatch2::{DispatchQueue, DispatchQueueAttr, DispatchRetained};
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2::{AnyThread, DefinedClass, Message, define_class, msg_send};
use objc2_foundation::{NSArray, NSError, NSFileHandle, NSObject, NSObjectProtocol, NSString, NSURL};
use objc2_virtualization::{
    VZEntropyDeviceConfiguration, VZFileHandleSerialPortAttachment, VZLinuxBootLoader,
    VZSerialPortConfiguration, VZVirtioConsoleDeviceSerialPortConfiguration,
    VZVirtioEntropyDeviceConfiguration, VZVirtualMachine, VZVirtualMachineConfiguration,
    VZVirtualMachineDelegate,
};

use super::plan::Plan;
use crate::accel::{AccelError, AccelResult, GuestArch, MachineEvents, WholeMachine};
use crate::devices::lock;
use crate::outcome::Outcome;

/// The architecture of the guests: the host's.
pub const GUEST: GuestArch =
    if cfg!(target_arch = "aarch64") { GuestArch::Aarch64 } else { GuestArch::X86_64 };
/// How long a start or a stop may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the last of the console may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// What there is to do about most errors.
const REMEDY: &str = "Sign the program with the entitlement com.apple.security.virtualization (`codesign \
                      --sign - --force --entitlements docs/vm-accel.entitlements PATH/TO/vm-accel`), or use \
                      `--accel hvf` or `--accel soft`";

/// An error of the framework.
fn refused(what: &str, error: &NSError) -> AccelError {
    let mut reason = error.localizedDescription().to_string();
    if let Some(detail) = error.localizedFailureReason() {
        reason = format!("{reason} {detail}");
    }
    // One line, without the full stop that the message gets anyway.
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    AccelError::Unusable {
        what: format!("Virtualization.framework {what}"),
        reason: reason.trim_end_matches('.').into(),
        remedy: REMEDY.into(),
    }
}

/// The host failed to give something.
fn host(operation: &'static str) -> impl FnOnce(io::Error) -> AccelError {
    move |source| AccelError::Host { operation, source }
}

/// Checks that this Mac has the framework's hypervisor, and that macOS lets the program use it.
///
/// # Errors
/// When one of both is not so.
pub fn require_support() -> AccelResult<()> {
    // SAFETY: no preconditions.
    if !unsafe { VZVirtualMachine::isSupported() } {
        return Err(AccelError::Unusable {
            what: "Virtualization.framework".into(),
            reason: "this Mac cannot run virtual machines".into(),
            remedy: "Use `--accel soft`".into(),
        });
    }
    // The smallest machine that there can be: the framework looks at the entitlement when it validates one.
    let plan = Plan {
        kernel: "/dev/null".into(),
        initrd: None,
        cmdline: String::new(),
        // SAFETY: no preconditions, here and below.
        memory: unsafe { VZVirtualMachineConfiguration::minimumAllowedMemorySize() },
        cpus: 1,
    };
    validate(&configuration(&plan, None))
}

/// Lets the framework check a configuration.
fn validate(configuration: &VZVirtualMachineConfiguration) -> AccelResult<()> {
    // SAFETY: an initialized configuration.
    unsafe { configuration.validateWithError() }.map_err(|error| refused("accepts no such machine", &error))
}

/// A file's URL.
fn url(path: &Path) -> Retained<NSURL> {
    NSURL::fileURLWithPath(&NSString::from_str(&path.to_string_lossy()))
}

/// The framework's ends of the console: what it reads from and what it writes to.
struct ConsoleEnds {
    reading: OwnedFd,
    writing: OwnedFd,
}

/// The configuration of a machine.
fn configuration(plan: &Plan, console: Option<&ConsoleEnds>) -> Retained<VZVirtualMachineConfiguration> {
    // SAFETY: the objects are initialized by their designated initializers, and every setter gets an object
    // of the class that it asks for.
    unsafe {
        let loader = VZLinuxBootLoader::initWithKernelURL(VZLinuxBootLoader::alloc(), &url(&plan.kernel));
        loader.setCommandLine(&NSString::from_str(&plan.cmdline));
        loader.setInitialRamdiskURL(plan.initrd.as_deref().map(url).as_deref());
        let entropy = VZVirtioEntropyDeviceConfiguration::new();
        let configuration = VZVirtualMachineConfiguration::new();
        configuration.setBootLoader(Some(&loader));
        configuration.setMemorySize(plan.memory);
        configuration.setCPUCount(plan.cpus as usize);
        configuration.setEntropyDevices(&NSArray::from_retained_slice(&[
            Retained::into_super(entropy) as Retained<VZEntropyDeviceConfiguration>
        ]));
        if let Some(console) = console {
            let handle = |fd: &OwnedFd| {
                NSFileHandle::initWithFileDescriptor_closeOnDealloc(
                    NSFileHandle::alloc(),
                    fd.as_raw_fd(),
                    false,
                )
            };
            let attachment =
                VZFileHandleSerialPortAttachment::initWithFileHandleForReading_fileHandleForWriting(
                    VZFileHandleSerialPortAttachment::alloc(),
                    Some(&handle(&console.reading)),
                    Some(&handle(&console.writing)),
                );
            let port = VZVirtioConsoleDeviceSerialPortConfiguration::new();
            port.setAttachment(Some(&attachment));
            configuration.setSerialPorts(&NSArray::from_retained_slice(&[
                Retained::into_super(port) as Retained<VZSerialPortConfiguration>
            ]));
        }
        configuration
    }
}

/// What the delegate has.
struct DelegateState {
    events: Arc<dyn MachineEvents>,
}

define_class!(
    // SAFETY: NSObject may be subclassed, and the class has no `Drop`.
    #[unsafe(super(NSObject))]
    #[ivars = DelegateState]
    struct Delegate;

    // SAFETY: NSObjectProtocol has no requirements.
    unsafe impl NSObjectProtocol for Delegate {}

    // SAFETY: the methods have the protocol's signatures.
    unsafe impl VZVirtualMachineDelegate for Delegate {
        #[unsafe(method(guestDidStopVirtualMachine:))]
        fn guest_did_stop(&self, _machine: &VZVirtualMachine) {
            self.ivars().events.ended(Ok(Outcome::PoweredOff));
        }

        #[unsafe(method(virtualMachine:didStopWithError:))]
        fn did_stop_with_error(&self, _machine: &VZVirtualMachine, error: &NSError) {
            self.ivars().events.ended(Err(refused("stopped the machine", error)));
        }
    }
);

impl Delegate {
    fn new(events: Arc<dyn MachineEvents>) -> Retained<Self> {
        let this = Self::alloc().set_ivars(DelegateState { events });
        // SAFETY: NSObject's initializer.
        unsafe { msg_send![super(this), init] }
    }
}

/// What is used on the queue only.
struct OnQueue<T>(T);

// SAFETY: the value is made, used and dropped by closures that run on the machine's serial queue, one after
// the other; only its handle passes between threads.
unsafe impl<T> Send for OnQueue<T> {}

/// The framework's machine, its delegate (which it holds weakly), and its ends of the console.
struct Parts {
    machine: Retained<VZVirtualMachine>,
    _delegate: Retained<ProtocolObject<dyn VZVirtualMachineDelegate>>,
    _console: Option<ConsoleEnds>,
}

/// A machine that runs.
pub struct Machine {
    queue: DispatchRetained<DispatchQueue>,
    parts: Arc<Mutex<Option<OnQueue<Parts>>>>,
    keyboard: Option<Mutex<File>>,
    /// Disconnected when the reader of the console has ended.
    reader: Option<Mutex<mpsc::Receiver<()>>>,
}

/// The answer of a completion handler.
type Completion = AccelResult<()>;

impl Machine {
    /// Starts the machine of `plan`.
    ///
    /// # Errors
    /// When the framework refuses.
    pub fn start(plan: &Plan, has_console: bool, events: Arc<dyn MachineEvents>) -> AccelResult<Self> {
        let (mut keyboard, mut output, mut ends) = (None, None, None);
        if has_console {
            let (reading, typed) = io::pipe().map_err(host("pipe"))?;
            let (written, writing) = io::pipe().map_err(host("pipe"))?;
            set_nonblocking(&typed).map_err(host("fcntl"))?;
            ends = Some(ConsoleEnds { reading: reading.into(), writing: writing.into() });
            keyboard = Some(Mutex::new(File::from(OwnedFd::from(typed))));
            output = Some(written);
        }
        let queue = DispatchQueue::new("vm-accel", DispatchQueueAttr::SERIAL);
        let parts = Arc::new(Mutex::new(None));
        let reader =
            output.map(|output| spawn_reader(output, Arc::clone(&events))).transpose()?.map(Mutex::new);
        let machine = Self { queue, parts, keyboard, reader };
        let (answer, started) = mpsc::channel::<Completion>();
        let (slot, queue, plan) = (Arc::clone(&machine.parts), machine.queue.clone(), plan.clone());
        machine.queue.exec_async(move || {
            let configuration = configuration(&plan, ends.as_ref());
            if let Err(error) = validate(&configuration) {
                let _ = answer.send(Err(error));
                return;
            }
            let delegate = ProtocolObject::from_retained(Delegate::new(events));
            let block = completion("does not start the machine", answer);
            // SAFETY: this is the queue that the machine is made for, on which all its calls are made; the
            // configuration is valid; the delegate and the pipe's ends live in `Parts` beside the machine.
            let machine = unsafe {
                let machine = VZVirtualMachine::initWithConfiguration_queue(
                    VZVirtualMachine::alloc(),
                    &configuration,
                    &queue,
                );
                machine.setDelegate(Some(&delegate));
                machine.startWithCompletionHandler(&block);
                machine
            };
            *lock(&slot) = Some(OnQueue(Parts { machine, _delegate: delegate, _console: ends }));
        });
        match started.recv_timeout(PATIENCE) {
            Ok(result) => result.map(|()| machine),
            Err(_) => Err(AccelError::Unusable {
                what: "Virtualization.framework".into(),
                reason: format!("it did not start the machine within {PATIENCE:?}"),
                remedy: "Try again, or use `--accel hvf` or `--accel soft`".into(),
            }),
        }
    }

    /// Does something with the framework's machine on its queue.
    fn on_queue(&self, act: impl FnOnce(&VZVirtualMachine) + Send + 'static) {
        let parts = Arc::clone(&self.parts);
        self.queue.exec_async(move || {
            if let Some(parts) = &*lock(&parts) {
                act(&parts.0.machine);
            }
        });
    }
}

/// A completion handler that sends its answer on.
fn completion(what: &'static str, answer: mpsc::Sender<Completion>) -> RcBlock<dyn Fn(*mut NSError)> {
    RcBlock::new(move |error: *mut NSError| {
        // SAFETY: the framework passes null or an error that lives as long as the call.
        let result = match unsafe { error.as_ref() } {
            None => Ok(()),
            Some(error) => Err(refused(what, &error.retain())),
        };
        // Who asked may have given up.
        let _ = answer.send(result);
    })
}

/// Reads what the guest writes until the framework has closed its end. The answer is disconnected then.
fn spawn_reader(
    mut output: impl Read + Send + 'static,
    events: Arc<dyn MachineEvents>,
) -> AccelResult<mpsc::Receiver<()>> {
    let (farewell, ended) = mpsc::channel::<()>();
    let read = move || {
        let _farewell = farewell;
        let mut bytes = [0; 4096];
        loop {
            match output.read(&mut bytes) {
                Ok(0) => return,
                Ok(count) => events.output(bytes.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    log::warn!("cannot read the guest's console: {error}");
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("console".into()).spawn(read).map_err(host("starting a thread"))?;
    Ok(ended)
}

/// Writes to a pipe that is full shall fail, and not wait.
fn set_nonblocking(pipe: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: this command touches no memory; the descriptor is open, and nobody else has this pipe's end.
    if unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl WholeMachine for Machine {
    fn type_in(&self, bytes: &[u8]) -> usize {
        self.keyboard.as_ref().map_or(bytes.len(), |pipe| lock(pipe).write(bytes).unwrap_or(0))
    }

    fn press_power_button(&self) {
        self.on_queue(|machine| {
            // SAFETY: this is the machine's queue.
            if let Err(error) = unsafe { machine.requestStopWithError() } {
                log::warn!("{}", refused("cannot ask the guest to power off", &error));
            }
        });
    }
}

impl Drop for Machine {
    /// Stops the machine if it still runs, and reads the last of its console.
    fn drop(&mut self) {
        let (answer, stopped) = mpsc::channel();
        self.on_queue(move |machine| {
            // SAFETY: this is the machine's queue.
            if unsafe { machine.canStop() } {
                let block = completion("cannot stop the machine", answer);
                // SAFETY: as above.
                unsafe { machine.stopWithCompletionHandler(&block) };
            }
        });
        // A machine that has ended already drops the sender unused.
        if let Ok(Err(error)) = stopped.recv_timeout(PATIENCE) {
            log::warn!("{error}");
        }
        // The machine goes on its queue, and its end of the pipe with it.
        let parts = Arc::clone(&self.parts);
        let (gone, waits) = mpsc::channel::<()>();
        self.queue.exec_async(move || {
            drop(lock(&parts).take());
            drop(gone);
        });
        let _ = waits.recv_timeout(PATIENCE);
        if let Some(reader) = &self.reader {
            // It ends when the framework's process has closed the pipe, too. One that does not is left behind.
            let _ = lock(reader).recv_timeout(FAREWELL);
        }
    }
}
