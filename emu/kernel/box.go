package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// A closed box is a machine in which nothing happens but instructions and
// timers. QEMU counts the instructions that it interprets and moves its clock
// by 2^shift ns for each; when the only processor has nothing to do, the clock
// jumps to the next timer. The kernel inside takes speed ns of QEMU's for one of its
// own, so the processor does speed / 2^shift instructions in a ns. What the box needs lies in its memory when it starts,
// what it has to say goes out by a port that never answers. So its time does not
// depend on the host's: the same box does the same, to the bit, on a machine
// that is idle or busy, fast or slow.
//
//	outside                                   inside
//	initrd: vpclab, modules, files, orders ─▶ process 1: mounts, modules, the command
//	readBox ◀─ port 0xe9: frames ◀─────────── its output, letters, ticks, exit
//
// What would break it is any way in: a disk, a network, a keyboard, the time of
// day, a shared folder. There is none.

// BoxConfig says what is run in a closed box. Everything in it changes what
// happens inside, but for what is said to have to do with the outside only.
type BoxConfig struct {
	Argv  []string  // Argv[0] is a path inside; see BoxProgram
	Env   []string  // all that the command gets, KEY=value
	Dir   string    // where it runs; made if need be. Empty: /
	Files []BoxFile // put into the box's root folder

	Lab    string // host name inside
	Memory int64  // bytes; default DefaultMemory
	Shift  int    // QEMU's clock moves by 2^Shift ns an instruction, 0 to 10
	Speed  int    // QEMU's ns in one of the box's, 1 to 64; default DefaultSpeed
	Seed   uint64 // of the machine's random numbers

	// The rest has to do with the outside.

	// Program is run as process 1; it must call Init. Default: this program.
	Program        string
	Stdout, Stderr io.Writer // of the command
	// Letter gets what the command sends with Post, in order. An error ends the box.
	Letter func(name string, body []byte) error
	Log    io.Writer // receives the kernel's console; may be nil
	// Scratch is a folder for the console log; empty: a temporary one.
	Scratch string
}

// BoxProgram is where the program that is process 1 lies inside.
const BoxProgram = "/usr/bin/vpclab"

// BoxFile is one file in a closed box. It comes from the host's file From, which
// may be a folder, else it holds Data.
type BoxFile struct {
	Path string // inside
	From string
	Data []byte
	Perm uint32 // default 0644; files from the host keep theirs
}

// BoxResult is how a box ended.
type BoxResult struct {
	Code    int           // the command's exit code; 128 + its number for a signal
	Virtual time.Duration // since the kernel's start, by the box's clock
	Wall    time.Duration // since QEMU's start, by ours
	Release string        // kernel release, as uname -r inside
	Without []string      // optional kernel modules that are not there, with the reason
	// Unsteady says why the box need not do the same again: its threads could not
	// be arranged as steady.go has it. Empty: they are.
	Unsteady string
	Box      BoxMake
}

// Ratio is how many seconds of the box's time passed in one of ours.
func (r BoxResult) Ratio() float64 { return r.Virtual.Seconds() / r.Wall.Seconds() }

// BoxMake is what a box is made of. Two boxes of the same make that are told the
// same do the same.
type BoxMake struct {
	Emulator string // QEMU's version
	Machine  string // models of machine and processor
	Release  string // of the kernel, by its image's name
	Image    string // SHA-256 of the kernel's image
	Program  string // SHA-256 of process 1's program
	Shift    int
	Speed    int
	Seed     uint64
}

// MaxShift is the greatest shift that QEMU takes, MaxSpeed what the kernel can
// believe of its processor.
const (
	MaxShift = 10
	MaxSpeed = 64
)

// DefaultSpeed is about what a core of today does: four instructions a ns.
const DefaultSpeed = 4

// check fills what is not given and refuses what cannot be.
func (cfg *BoxConfig) check() error {
	if len(cfg.Argv) == 0 {
		return errors.New("closed box: no command given")
	}
	if cfg.Shift < 0 || cfg.Shift > MaxShift {
		return fmt.Errorf("closed box: shift %d: want 0 to %d: an instruction takes 2^shift ns", cfg.Shift, MaxShift)
	}
	if cfg.Speed == 0 {
		cfg.Speed = DefaultSpeed
	}
	if cfg.Speed < 1 || cfg.Speed > MaxSpeed {
		return fmt.Errorf("closed box: speed %d: want 1 to %d: ns of QEMU's in one of the box's", cfg.Speed, MaxSpeed)
	}
	if cfg.Memory == 0 {
		cfg.Memory = DefaultMemory
	}
	if cfg.Memory < minMemory {
		return fmt.Errorf("memory %s is too little for a kernel: want at least %s", humanBytes(cfg.Memory), humanBytes(minMemory))
	}
	if cfg.Lab == "" {
		cfg.Lab = "vpclab"
	}
	if cfg.Program == "" {
		cfg.Program = "/proc/self/exe"
	}
	for _, w := range []*io.Writer{&cfg.Stdout, &cfg.Stderr} {
		if *w == nil {
			*w = io.Discard
		}
	}
	return nil
}

// RunBox runs one command in a closed box and waits for its end. The box does not
// outlive ctx, nor this process.
func RunBox(ctx context.Context, cfg BoxConfig) (BoxResult, error) {
	if err := cfg.check(); err != nil {
		return BoxResult{}, err
	}
	b, err := newBox(ctx, cfg)
	if err != nil {
		return BoxResult{}, err
	}
	res, err := b.run(ctx)
	if err != nil && !IsUnusable(err) {
		err = fmt.Errorf("closed box: %w", err)
	}
	return res, err
}

// LookIntoBox tells what a box would be made of, or why there can be none here.
func LookIntoBox(ctx context.Context, cfg BoxConfig) (BoxMake, error) {
	if err := cfg.check(); err != nil {
		return BoxMake{}, err
	}
	b, err := newBox(ctx, cfg)
	if err != nil {
		return BoxMake{}, err
	}
	return b.made, nil
}

// newBox looks for the parts of a box.
func newBox(ctx context.Context, cfg BoxConfig) (*box, error) {
	if err := qemuUsable(ctx); err != nil {
		return nil, err
	}
	if err := static(cfg.Program); err != nil {
		return nil, err
	}
	qemu, err := findQEMU(ctx)
	if err != nil {
		return nil, err
	}
	image, err := findImage()
	if err != nil {
		return nil, err
	}
	b := &box{cfg: cfg, qemu: qemu, image: image, boot: image.Loadable(ctx), done: make(chan struct{})}
	if b.made, err = b.make(); err != nil {
		return nil, fmt.Errorf("closed box: %w", err)
	}
	return b, nil
}

// make finds out what the box is made of.
func (b *box) make() (BoxMake, error) {
	m := BoxMake{
		Emulator: "QEMU " + b.qemu.Version, Machine: boxMachine + "; " + boxProcessor + "; " + filepath.Base(b.boot),
		Release: b.image.Release, Shift: b.cfg.Shift, Speed: b.cfg.Speed, Seed: b.cfg.Seed,
	}
	var err error
	if m.Image, err = fileDigest(b.image.Path); err != nil {
		return m, err
	}
	m.Program, err = fileDigest(b.cfg.Program)
	return m, err
}

// fileDigest is the SHA-256 of a file, in hexadecimal.
func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
