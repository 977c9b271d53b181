package kernel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vpclab/vpclab/emu/stock"
)

// Check is one line of what `vpclab doctor` found.
type Check struct {
	Substrate string `json:"substrate"` // host, uml, qemu, or "machine" for what concerns all
	Name      string `json:"name"`
	OK        bool   `json:"ok"`
	Optional  bool   `json:"optional,omitempty"` // missing it takes something away, but labs work
	Detail    string `json:"detail"`
	Fix       string `json:"fix,omitempty"` // the command or act that mends it
}

// machineChecks is the Substrate of checks that concern the machine as a whole.
const machineChecks = "machine"

// Doctor looks at this machine and boots a kernel to be sure. It changes
// nothing; it loads no module into the host's kernel. More checks of the
// machine are what others found.
func Doctor(ctx context.Context, more ...Check) []Check {
	checks := append(doctorMachine(), more...)
	checks = append(checks, doctorHost()...)
	checks = append(checks, doctorUML(ctx)...)
	return append(checks, doctorQEMU(ctx)...)
}

// Usable lists the substrates that the checks found able to carry a lab.
func Usable(checks []Check) []Substrate {
	var usable []Substrate
	for _, s := range []Substrate{Host, UML, QEMU} {
		seen, ok := false, true
		for _, c := range checks {
			if c.Substrate == string(s) {
				seen = true
				ok = ok && (c.OK || c.Optional)
			}
		}
		if seen && ok {
			usable = append(usable, s)
		}
	}
	return usable
}

// doctorMachine checks what does not depend on the kernel.
func doctorMachine() []Check {
	return []Check{
		{Substrate: machineChecks, Name: "kernel", OK: true, Detail: fmt.Sprintf("Linux %s, %s, %d CPUs", hostRelease(), runtime.GOARCH, runtime.NumCPU())},
		checkMemory(),
		checkTool("ip", "looking into nodes by hand (ip netns exec)", "apt-get install iproute2"),
		checkTool("ping", "trying reachability by hand", "apt-get install iputils-ping"),
		checkTool("tcpdump", "decoding captures by hand", "apt-get install tcpdump"),
		checkTool("go", "building from source", "install Go from https://go.dev/dl"),
	}
}

func checkTool(name, use, fix string) Check {
	c := Check{Substrate: machineChecks, Name: name, Optional: true}
	path, err := exec.LookPath(name)
	if err != nil {
		// Ordinary users often lack the sbin folders that labs search.
		for _, dir := range strings.Split(standardPath, ":") {
			if p, e := exec.LookPath(dir + "/" + name); e == nil {
				path, err = p, nil
				break
			}
		}
	}
	if err != nil {
		c.Detail, c.Fix = "not found; it is for "+use, fix
		return c
	}
	c.OK, c.Detail = true, path
	return c
}

// wantMemory is what a lab of the default size needs free, in bytes.
const wantMemory = DefaultMemory

func checkMemory() Check {
	c := Check{Substrate: machineChecks, Name: "memory", Optional: true}
	free, err := memAvailable()
	if err != nil {
		c.Detail = err.Error()
		return c
	}
	c.OK = free >= wantMemory
	c.Detail = humanBytes(free) + " available"
	if !c.OK {
		c.Fix = fmt.Sprintf("free some: a lab takes up to %s, or what kernel.memory in its file says", humanBytes(wantMemory))
	}
	return c
}

// memAvailable reads how much memory programs can still have, in bytes.
func memAvailable() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 2 && fields[0] == "MemAvailable:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}

// doctorHost tries this machine's own kernel.
func doctorHost() []Check {
	var checks []Check
	for _, f := range probeFeatures() {
		c := Check{Substrate: string(Host), Name: f.Name, OK: f.OK, Optional: f.Optional, Detail: f.Detail}
		if !f.OK {
			c.Fix = hostFix([]feature{f})
		}
		checks = append(checks, c)
	}
	return checks
}

// doctorUML looks for User Mode Linux and, if it is all there, boots it.
func doctorUML(ctx context.Context) []Check {
	program := Check{Substrate: string(UML), Name: "program"}
	u, err := findUML(ctx)
	if err != nil {
		return []Check{failed(program, err)}
	}
	program.OK, program.Detail = true, fmt.Sprintf("%s, Linux %s%s", u.Path, u.Release, seccompNote(u))
	modules := Check{Substrate: string(UML), Name: "modules"}
	files, without, err := u.plan()
	if err != nil {
		return []Check{program, failed(modules, err)}
	}
	modules.OK, modules.Detail = true, fmt.Sprintf("%d to load from %s", len(files), u.Modules)
	if len(without) > 0 {
		modules.Detail += "; not there: " + strings.Join(without, ", ")
	}
	checks := []Check{program, modules, checkRoom(), checkIsolation()}
	return append(checks, doctorBoot(ctx, UML)...)
}

func seccompNote(u *umlProgram) string {
	if u.Seccomp {
		return ", seccomp mode"
	}
	return ""
}

// failed fills a check from the error that stands in its way.
func failed(c Check, err error) Check {
	c.Detail = err.Error()
	var u *Unusable
	if errors.As(err, &u) {
		c.Detail, c.Fix = u.Missing, u.Fix
	}
	return c
}

// checkRoom looks for a folder for the booted kernel's memory.
func checkRoom() Check {
	c := Check{Substrate: string(UML), Name: "room for its memory"}
	dir, err := memoryDir(wantMemory)
	if err != nil {
		return failed(c, err)
	}
	free, _ := roomIn(dir)
	c.OK, c.Detail = true, fmt.Sprintf("%s, %s free", dir, humanBytes(free))
	if dir != "/dev/shm" {
		c.Detail += " (a disk: slower than /dev/shm, which has too little)"
	}
	return c
}

// checkIsolation tries whether the warden can have a PID namespace.
func checkIsolation() Check {
	c := Check{Substrate: string(UML), Name: "PID namespace", Optional: true}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{envWarden + "=1"} // with no orders it ends at once
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	isolate(cmd.SysProcAttr)
	if err := cmd.Start(); err != nil {
		c.Detail = fmt.Sprintf("not for us (%v): a kernel whose warden is killed by hand may leave processes", err)
		c.Fix = "run as root, or sysctl kernel.unprivileged_userns_clone=1 (Ubuntu: kernel.apparmor_restrict_unprivileged_userns=0)"
		return c
	}
	_ = cmd.Wait()
	c.OK, c.Detail = true, "the kernel's processes end with its warden"
	return c
}

// doctorQEMU looks for QEMU and a stock kernel and, if all is there, boots it.
func doctorQEMU(ctx context.Context) []Check {
	program, image, modules := Check{Substrate: string(QEMU), Name: "program"}, Check{Substrate: string(QEMU), Name: "kernel image"}, Check{Substrate: string(QEMU), Name: "modules"}
	q, err := findQEMU(ctx)
	if err != nil {
		return []Check{failed(program, err)}
	}
	program.OK, program.Detail = true, q.Path+", "+q.Version
	k, err := findImage()
	if err != nil {
		return []Check{program, failed(image, err)}
	}
	image.OK, image.Detail = true, k.Path
	files, without, err := planImage(k, qemuModules...)
	if err != nil {
		return []Check{program, image, failed(modules, err)}
	}
	modules.OK, modules.Detail = true, fmt.Sprintf("%d to load from %s", len(files), k.Modules)
	if len(without) > 0 {
		modules.Detail += "; not there: " + strings.Join(without, ", ")
	}
	checks := []Check{program, image, modules, checkUnpacked(ctx, k), checkAccelerator(ctx, q, k)}
	return append(checks, doctorBoot(ctx, QEMU)...)
}

// checkUnpacked tells whether the kernel has to unpack itself at each start.
func checkUnpacked(ctx context.Context, k *stock.Image) Check {
	c := Check{Substrate: string(QEMU), Name: "unpacked kernel", Optional: true}
	path, err := k.Unpacked(ctx)
	if err != nil {
		c.Detail = fmt.Sprintf("%v: each start takes some seconds longer", err)
		c.Fix = "apt-get install xz-utils zstd (as root), and see that the cache folder can be written"
		return c
	}
	c.OK, c.Detail = true, path
	return c
}

// checkAccelerator tells what carries out the instructions.
func checkAccelerator(ctx context.Context, q *stock.QEMU, k *stock.Image) Check {
	c := Check{Substrate: string(QEMU), Name: "accelerator", Optional: true}
	m := &qemuMachine{qemu: q, image: k, boot: k.Loadable(ctx)}
	accel, why := m.chooseAccelerator(ctx, Config{})
	c.OK, c.Detail = accel == accelKVM, why
	if !c.OK {
		c.Detail = "TCG, which translates instructions: computing takes 10 to 35 times as long (" + why + ")"
	}
	return c
}

// doctorBoot is the proof: a boot, and the features tried inside.
func doctorBoot(ctx context.Context, s Substrate) []Check {
	boot := Check{Substrate: string(s), Name: "boot"}
	ctx, cancel := context.WithTimeout(ctx, 4*bootLimit) // its start has a limit of its own
	defer cancel()
	features, m, err := probeBoot(ctx, s)
	if err != nil {
		return []Check{failed(boot, err)}
	}
	boot.OK, boot.Detail = true, fmt.Sprintf("answered after %v", m.BootTime.Round(10*time.Millisecond))
	checks := []Check{boot}
	for _, f := range features {
		c := Check{Substrate: string(s), Name: f.Name, OK: f.OK, Optional: f.Optional, Detail: f.Detail}
		if !f.OK {
			c.Fix = "use a kernel with " + strings.Join(f.Modules, ", ")
		}
		checks = append(checks, c)
	}
	return checks
}
