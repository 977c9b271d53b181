package kernel

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/stock"
)

// box is the outside of one closed box.
type box struct {
	cfg      BoxConfig
	qemu     *stock.QEMU
	image    *stock.Image
	boot     string // what QEMU loads of it
	made     BoxMake
	scratch  *scratch
	warden   *wardenProcess
	port     *os.File // what the box says
	printed  *os.File // what its kernel printed
	said     tail     // QEMU's own messages
	group    int
	how      string
	failed   string
	unsteady string
	done     chan struct{} // closed when nothing of the box is left
}

// The models of machine and processor.
//
// The machine has no timer but the processor's own, so that all clocks of the
// kernel are derived from one number: the frequency of the time stamp counter. It
// counts QEMU's ns, and the kernel is told that it counts Speed of them in each of
// its own (see BoxConfig).
//
// The processor is QEMU's own, never the host's, with all that it can do. But it
// does not claim that copying by bytes is fast: a repeated instruction counts once a
// repetition, so that copying by words takes an eighth of the time. And five levels of
// page tables are looked through for nothing.
const (
	boxMachine   = "microvm,acpi=on,pit=off,pic=off,rtc=on,auto-kernel-cmdline=off"
	boxProcessor = "max,-erms,-fsrm,-la57"
)

// boxEpoch is the time of day when the box starts.
const boxEpoch = "2026-01-01T00:00:00"

// Names in a box's scratch folder.
const (
	boxInitrdName  = "initrd"
	boxConsoleName = "serial.log"
)

// run starts QEMU under a warden, reads what the box says, and waits for its end.
func (b *box) run(ctx context.Context) (res BoxResult, err error) {
	if b.scratch, err = newScratch(b.cfg.Scratch); err != nil {
		return res, err
	}
	began := time.Now()
	if err := b.launch(); err != nil {
		b.scratch.remove()
		return res, err
	}
	defer b.printed.Close()
	defer b.port.Close()
	ended := context.AfterFunc(ctx, b.kill)
	defer ended()
	go b.watch()
	out, err := b.listen()
	res = BoxResult{Code: out.Code, Virtual: time.Duration(out.Virtual), Wall: time.Since(began), Release: out.Release, Without: out.Without, Box: b.made}
	b.kill()
	<-b.done
	console := b.console()
	switch {
	case ctx.Err() != nil:
		return res, context.Cause(ctx)
	case b.failed != "":
		return res, &Unusable{Substrate: QEMU, Missing: fmt.Sprintf("%s does not start: %s", b.qemu.Path, b.failed), Fix: stock.QEMUFix}
	case err != nil:
		return res, fmt.Errorf("%w%s", err, console)
	case out.Error != "":
		return res, errors.New(out.Error)
	}
	return res, nil
}

// launch writes the initial file system and starts the warden, which starts QEMU.
func (b *box) launch() error {
	path := filepath.Join(b.scratch.dir, boxInitrdName)
	if err := b.writeInitrd(path); err != nil {
		return err
	}
	program, err := b.scratch.place(b.cfg.Program)
	if err != nil {
		return err
	}
	// QEMU writes to a file, which is never full as a pipe may be, so that the
	// kernel never waits for us. The warden removes it; we have it open.
	if b.printed, err = os.OpenFile(filepath.Join(b.scratch.dir, boxConsoleName), os.O_RDONLY|os.O_CREATE, 0o600); err != nil {
		return err
	}
	port, theirs, err := os.Pipe()
	if err != nil {
		b.printed.Close()
		return err
	}
	defer theirs.Close()
	_, _ = unix.FcntlInt(theirs.Fd(), unix.F_SETPIPE_SZ, 1<<20) // fewer turns between QEMU and us; the limits may forbid it
	b.port = port
	b.warden, err = startWarden(program, wardenOrders{
		Argv:    append([]string{b.qemu.Path}, b.arguments(path)...),
		Env:     b.qemu.Env(),
		Scratch: b.scratch.dir,
		Steady:  true,
	}, theirs, b.scratch.lock)
	if err != nil {
		port.Close()
		b.printed.Close()
	}
	return err
}

// arguments make QEMU's command line. Its file 3 is the channel that the warden
// hands over, which is where the port leads.
func (b *box) arguments(initrd string) []string {
	args := []string{
		"-M", boxMachine, "-cpu", boxProcessor, "-accel", "tcg",
		"-icount", fmt.Sprintf("shift=%d,sleep=off", b.cfg.Shift),
		"-smp", "1", "-m", strconv.FormatInt(b.cfg.Memory>>20, 10) + "M",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-name", "vpclab,debug-threads=on",
		"-rtc", "base=" + boxEpoch + ",clock=vm", "-seed", strconv.FormatUint(b.cfg.Seed, 10),
		"-kernel", b.boot, "-initrd", initrd, "-append", b.kernelLine(),
		"-chardev", "file,id=console,path=" + filepath.Join(b.scratch.dir, boxConsoleName), "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("file,id=port,path=/proc/self/fd/%d", wardenChannel), "-device", "isa-debugcon,chardev=port",
	}
	return append(b.qemu.Firmware(), args...)
}

// kernelLine is the kernel's command line. Its random numbers come of the
// processor's, which come of the seed, and nothing lies at a place that they chose.
func (b *box) kernelLine() string {
	return strings.Join([]string{
		"console=ttyS0", "quiet", "printk.time=0", "panic=-1", // with -no-reboot: a panic ends QEMU
		"rdinit=" + BoxProgram, envInit + "=" + boxInit,
		"random.trust_cpu=on", "nokaslr", "norandmaps",
		"tsc=reliable", fmt.Sprintf("tsc_early_khz=%d", b.cfg.Speed*1_000_000), "no_timer_check", "lpj=10000000",
		"initcall_blacklist=" + strings.Join(slices.Concat(qemuSkipped, skippedInitcalls), ","),
		"cryptomgr.notests", "lsm=", "audit=0", "mitigations=off", "pci=off",
		"ipv6.disable_ipv6=1", // it is built in: see moduleArgs
	}, " ")
}

// writeInitrd packs what the box needs.
func (b *box) writeInitrd(path string) error {
	a, err := b.pack()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err := a.Pack(w); err != nil {
		f.Close()
		return err
	}
	if err := w.Flush(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// boxPatience is how long a box may be silent. It ticks once in 10^9 ns of QEMU's,
// for which a quiet machine takes five seconds at most, and ten programs beside it
// ten times as long.
const boxPatience = 3 * time.Minute

// errSilent says that the box has stopped to make progress.
var errSilent = fmt.Errorf("it has said nothing, not even that it lives, for %v of our time", boxPatience)

// listen reads frames until the exit frame.
func (b *box) listen() (boxOut, error) {
	silence := make(chan struct{})
	quiet := time.AfterFunc(boxPatience, func() {
		close(silence)
		b.kill()
	})
	defer quiet.Stop()
	out, err := b.readFrames(func() { quiet.Reset(boxPatience) })
	select {
	case <-silence:
		return out, errSilent
	default:
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		<-b.done // the warden's last news
		err = fmt.Errorf("it ended before its command did: %s%s", b.how, b.said.quote())
	}
	return out, err
}

// readFrames hands on what comes; heard is called at each sign of life.
func (b *box) readFrames(heard func()) (out boxOut, err error) {
	r := bufio.NewReaderSize(b.port, 1<<20)
	var letters letterReader
	for {
		kind, body, err := readFrame(r)
		if err != nil {
			return out, err
		}
		heard()
		switch kind {
		case frameOut:
			_, err = b.cfg.Stdout.Write(body)
		case frameErr:
			_, err = b.cfg.Stderr.Write(body)
		case frameLetter:
			err = letters.take(body, b.cfg.Letter)
		case frameTick:
		case frameExit:
			return out, json.Unmarshal(body, &out)
		default:
			err = fmt.Errorf("frame of unknown kind %q", kind)
		}
		if err != nil {
			return out, err
		}
	}
}

// kill ends the box at once: nothing in it is worth keeping.
func (b *box) kill() { b.warden.kill() }

// console quotes the end of what the kernel printed, when it has ended.
func (b *box) console() string {
	data, err := io.ReadAll(b.printed)
	if err != nil {
		return ""
	}
	if b.cfg.Log != nil {
		_, _ = b.cfg.Log.Write(data)
	}
	var t tail
	t.Write(data)
	return t.quote()
}

// watch follows the warden's news until it ends.
func (b *box) watch() {
	defer close(b.done)
	for {
		var n wardenNews
		if err := b.warden.news.Decode(&n); err != nil {
			break
		}
		b.said.Write([]byte(n.Console))
		if n.PID != 0 {
			b.group = n.PID
		}
		if n.Exit != "" {
			b.how = n.Exit
		}
		if n.Error != "" {
			b.failed = n.Error
		}
		if n.Unsteady != "" {
			b.unsteady = n.Unsteady
		}
	}
	_ = b.warden.cmd.Wait()
	b.warden.life.Close()
	b.warden.status.Close()
	if b.how == "" && b.group > 1 && !b.warden.alone {
		_ = unix.Kill(-b.group, unix.SIGKILL)
	}
	b.scratch.remove()
}
