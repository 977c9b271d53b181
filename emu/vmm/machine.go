package vmm

// Machine is QEMU's option -M for a VM with a stock kernel. Such a kernel finds an
// ACPI without legacy hardware there, and so never tells the PIC and the PIT to be
// quiet: one start in six ended at the first tick of the PIT, which came in as
// a division by zero. The rate of the counter that the kernel would measure by the
// PIT is given to it (see inside.KernelLine).
const Machine = "microvm,pit=off,pic=off,rtc=on"
