package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Home is the folder in which the labs of one user are known:
//
//	labs/<name>/lock        held (flock) by the process that keeps the lab
//	labs/<name>/state.json  State
//	labs/<name>/lab.sock    the daemon's API
//	labs/<name>/keeper.log  what the keeper had to say
//	labs/<name>/kernel/     files of a booted kernel
//
// The lock decides whether a lab lives: it falls with its holder, however that
// ends, and no other process can be taken for it.
type Home struct{ dir string }

// DefaultHome is $VPCLAB_HOME, or vpclab in $XDG_STATE_HOME, which is
// ~/.local/state by default.
func DefaultHome() (*Home, error) {
	if dir := os.Getenv("VPCLAB_HOME"); dir != "" {
		return NewHome(dir)
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return NewHome(filepath.Join(dir, "vpclab"))
	}
	user, err := os.UserHomeDir()
	if err != nil {
		return nil, fmt.Errorf("where to keep labs: set VPCLAB_HOME: %w", err)
	}
	return NewHome(filepath.Join(user, ".local", "state", "vpclab"))
}

// NewHome is the home at dir, which need not exist yet.
func NewHome(dir string) (*Home, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("where to keep labs: %w", err)
	}
	return &Home{dir: abs}, nil
}

const (
	lockName    = "lock"
	stateName   = "state.json"
	sockName    = "lab.sock"
	logName     = "keeper.log"
	kernelName  = "kernel"
	gonePrefix  = ".gone-"  // a lab's folder on its way out
	startPrefix = ".start-" // log of a keeper that has no folder yet
)

func (h *Home) labs() string             { return filepath.Join(h.dir, "labs") }
func (h *Home) folder(lab string) string { return filepath.Join(h.labs(), lab) }

// State is state.json: what the holder of a lab says of it.
type State struct {
	Lab       string    `json:"lab"`
	PID       int       `json:"pid"`
	Verb      string    `json:"verb"` // keeper | run
	Substrate string    `json:"substrate"`
	File      string    `json:"file"`
	Version   string    `json:"version"`
	Started   time.Time `json:"started"`
	Up        bool      `json:"up"` // the daemon answers
}

// Info is a lab found in a Home.
type Info struct {
	Name  string `json:"name"`
	Alive bool   `json:"alive"` // a process keeps it
	State State  `json:"holder"`
	Dir   string `json:"dir"`
}

// List is the labs that are known, living and dead, by name.
func (h *Home) List() ([]Info, error) {
	entries, err := os.ReadDir(h.labs())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var out []Info
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			out = append(out, h.info(e.Name()))
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

func (h *Home) info(name string) Info {
	i := Info{Name: name, Dir: h.folder(name), Alive: h.Alive(name)}
	if b, err := os.ReadFile(filepath.Join(i.Dir, stateName)); err == nil {
		_ = json.Unmarshal(b, &i.State) // a torn file of a dead lab says nothing
	}
	return i
}

// Alive tells whether a process keeps the lab.
func (h *Home) Alive(lab string) bool {
	f, err := os.Open(filepath.Join(h.folder(lab), lockName))
	if err != nil {
		return false
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
		return false
	}
	return true
}

// ErrTaken says that another process keeps a lab of that name.
var ErrTaken = errors.New("is kept by another process")

// claim is a lab's folder held by this process.
type claim struct {
	home *Home
	name string
	dir  string
	lock *os.File
}

// claim makes the lab's folder and holds it. What a dead holder left is
// removed first.
func (h *Home) claim(name string) (*claim, error) {
	if err := os.MkdirAll(h.labs(), 0o755); err != nil {
		return nil, fmt.Errorf("lab %s: make its folder: %w", name, err)
	}
	turn, err := h.turn()
	if err != nil {
		return nil, err
	}
	defer turn.Close()
	if h.Alive(name) {
		i := h.info(name)
		return nil, fmt.Errorf("lab %s %w (vpclab %s, pid %d)", name, ErrTaken, i.State.Verb, i.State.PID)
	}
	dir := h.folder(name)
	if err := h.discard(name); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lab %s: make its folder: %w", name, err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o644)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("lab %s: lock its folder: %w", name, err)
	}
	return &claim{home: h, name: name, dir: dir, lock: lock}, nil
}

// turn serialises the moments in which folders are made and taken away.
func (h *Home) turn() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(h.labs(), ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", h.labs(), err)
	}
	return f, nil
}

// discard takes a folder away. It is renamed first, so that a new lab of the
// same name never finds half of it.
func (h *Home) discard(name string) error {
	gone, err := os.MkdirTemp(h.labs(), gonePrefix)
	if err != nil {
		return fmt.Errorf("lab %s: remove its folder: %w", name, err)
	}
	err = os.Rename(h.folder(name), filepath.Join(gone, name))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(gone))
}

// write replaces state.json.
func (c *claim) write(s State) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(c.dir, stateName)
	err = os.WriteFile(path+".new", append(b, '\n'), 0o644)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("lab %s: write its state: %w", c.name, err)
	}
	return nil
}

// release removes the folder and lets go of the name.
func (c *claim) release() error {
	defer c.lock.Close()
	turn, err := c.home.turn()
	if err != nil {
		return err
	}
	defer turn.Close()
	return c.home.discard(c.name)
}

// waitGone waits until the holder of a lab has let go of it.
func (h *Home) waitGone(ctx context.Context, lock *os.File) error {
	free := make(chan error, 1)
	go func() { free <- unix.Flock(int(lock.Fd()), unix.LOCK_SH) }() // cannot be interrupted; ends with the holder, or with us
	select {
	case err := <-free:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Client speaks to the daemon of a living lab. The error names the labs there
// are when it is not one of them.
func (h *Home) Client(lab string) (*Client, error) {
	if !h.Alive(lab) {
		return nil, h.noLab(lab)
	}
	return NewClient(func(ctx context.Context) (net.Conn, error) { return h.dial(ctx, lab) }), nil
}

// ErrNoLab says that no such lab is deployed.
var ErrNoLab = errors.New("is not deployed")

func (h *Home) noLab(lab string) error {
	if _, err := os.Stat(h.folder(lab)); err == nil {
		return fmt.Errorf("lab %q %w any more: its keeper is dead (%s may tell why; vpclab gc removes it)", lab, ErrNoLab, filepath.Join(h.folder(lab), logName))
	}
	all, _ := h.List()
	var living []string
	for _, i := range all {
		if i.Alive {
			living = append(living, i.Name)
		}
	}
	if len(living) == 0 {
		return fmt.Errorf("lab %q %w: no lab is (vpclab deploy makes one)", lab, ErrNoLab)
	}
	return fmt.Errorf("lab %q %w: %s", lab, ErrNoLab, strings.Join(living, ", ")+" are")
}

func (h *Home) dial(ctx context.Context, lab string) (net.Conn, error) {
	path, done, err := shortPath(h.folder(lab), sockName)
	if err != nil {
		return nil, err
	}
	defer done()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		holder := h.info(lab).State
		if !holder.Up {
			return nil, fmt.Errorf("lab %s is just being started by another command (vpclab %s, pid %d)", lab, holder.Verb, holder.PID)
		}
		return nil, fmt.Errorf("lab %s does not answer (vpclab %s, pid %d): %w", lab, holder.Verb, holder.PID, err)
	}
	return conn, nil
}

// maxSockPath is what fits into a sockaddr_un.
const maxSockPath = 107

// shortPath gives a path by which a socket in dir can be reached even when its
// own is too long for the kernel.
func shortPath(dir, name string) (path string, done func(), err error) {
	path = filepath.Join(dir, name)
	if len(path) <= maxSockPath {
		return path, func() {}, nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name), func() { d.Close() }, nil
}
