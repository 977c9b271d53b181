package kernel

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The outside of User Mode Linux as a bootable kernel. Its control channel is
// the first serial line, see window.go.

func (u *umlProgram) String() string { return "User Mode Linux " + u.Release }

func (u *umlProgram) lack(missing string) error {
	return &Unusable{Substrate: UML, Missing: u.Path + ": " + missing, Fix: umlPackageFix}
}

func (u *umlProgram) least() int64 { return minMemory }

func (u *umlProgram) file() string { return u.Path }

func (u *umlProgram) patience() time.Duration { return bootLimit }

func (u *umlProgram) folder() string { return u.Modules }

func (u *umlProgram) booted(*scratch) {}

func (u *umlProgram) command(cfg Config, s *scratch, program string, o *orders) (wardenOrders, error) {
	o.Visible = append(o.Visible, program)
	memory, err := memoryDir(cfg.Memory)
	if err != nil {
		return wardenOrders{}, err
	}
	return wardenOrders{
		Argv: append([]string{u.Path}, u.arguments(program, s.dir, cfg.Memory)...),
		Env:  []string{"TMPDIR=" + memory, "HOME=/", "PATH=" + standardPath},
	}, nil
}

// channel gives the line a folder of its own, beside the program.
func (u *umlProgram) channel(conn io.ReadWriteCloser, s *scratch) (io.ReadWriteCloser, error) {
	dir, err := filepath.EvalSymlinks(s.dir)
	if err != nil {
		return nil, err
	}
	spool := filepath.Join(dir, spoolName)
	if err := os.Mkdir(spool, 0o700); err != nil {
		return nil, err
	}
	return newOuterLine(conn, spool), nil
}

// skippedInitcalls are parts of the kernel that cost seconds of every boot and
// serve no lab: the RAID 6 speed contest alone takes 0.85 s. Names that a
// build does not have are ignored by the kernel.
var skippedInitcalls = []string{"raid6_select_algo", "init_btrfs_fs", "init_xfs_fs", "init_jfs_fs", "init_zswap"}

// arguments make the kernel's command line. The channel and the console are
// files that the warden hands over: 3 and 1.
func (u *umlProgram) arguments(program, dir string, memory int64) []string {
	args := []string{
		fmt.Sprintf("mem=%dK", memory>>10),
		"rootfstype=hostfs", "rootflags=/", "ro",
		"init=" + program, envInit + "=" + string(UML),
		"uml_dir=" + dir + "/", "umid=uml",
		"con=null", "con0=null,fd:1", "ssl=null", "ssl0=fd:3,fd:3",
		"quiet",
		"initcall_blacklist=" + strings.Join(skippedInitcalls, ","),
		"cryptomgr.notests", // self-tests of ciphers nobody uses here
		"lsm=", "audit=0",   // no policy is loaded: their hooks would only cost
		"lpj=10000000", // skips a 40 ms calibration for delays nobody makes
	}
	if u.Seccomp {
		args = append(args, "seccomp=on")
	}
	return args
}
