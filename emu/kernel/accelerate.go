package kernel

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/stock"
)

// That /dev/kvm opens says little: in nested and paravirtual machines it may
// stand there and yet boot no stock kernel. So a boot of the very image decides,
// once for each start of this machine and each version of QEMU.

// kvmAnswer is what the trial boot found, as kept in the cache folder.
type kvmAnswer struct {
	Boot string `json:"boot"` // this machine's boot id, at the time
	QEMU string `json:"qemu"` // version
	OK   bool   `json:"ok"`
	Why  string `json:"why"` // in words
}

const (
	kvmAnswerName = "kvm.json"
	// kvmLimit bounds the trial boot. One that works takes a second.
	kvmLimit = 20 * time.Second
	// kvmMemory is what the trial gets, in bytes.
	kvmMemory = 512 << 20
)

// chooseAccelerator gives KVM if it boots this image, else TCG, and why.
func (m *qemuMachine) chooseAccelerator(ctx context.Context, cfg Config) (accelerator, string) {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return accelTCG, fmt.Sprintf("no KVM: /dev/kvm: %v", err)
	}
	unix.Close(fd)
	want := kvmAnswer{Boot: bootID(), QEMU: m.qemu.Version}
	path := ""
	if dir, err := m.image.Cache(); err == nil {
		path = filepath.Join(dir, kvmAnswerName)
	}
	answer, ok := readKVMAnswer(path, want)
	if !ok {
		answer = want
		answer.OK, answer.Why = m.tryKVM(ctx, cfg.Program)
		if ctx.Err() == nil && path != "" {
			if data, err := json.Marshal(answer); err == nil {
				_ = stock.ReplaceFile(path, data) // else it is tried again the next time
			}
		}
	}
	if answer.OK {
		return accelKVM, answer.Why
	}
	return accelTCG, answer.Why
}

// readKVMAnswer reads an earlier answer, if it holds for now.
func readKVMAnswer(path string, want kvmAnswer) (kvmAnswer, bool) {
	var a kvmAnswer
	data, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(data, &a) != nil {
		return a, false
	}
	return a, want.Boot != "" && a.Boot == want.Boot && a.QEMU == want.QEMU
}

// bootID names this start of this machine; empty where it has no name.
func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}

// tryKVM boots the image with KVM and says how that went.
func (m *qemuMachine) tryKVM(ctx context.Context, program string) (ok bool, why string) {
	ctx, cancel := context.WithTimeout(ctx, kvmLimit)
	defer cancel()
	trial := *m
	trial.accel = accelKVM
	began := time.Now()
	up, err := startBooted(ctx, Config{Substrate: QEMU, Lab: "trial", Memory: kvmMemory, Program: program, mode: modeProbe}, &trial)
	if err != nil {
		why, _, _ := strings.Cut(err.Error(), "\n")
		return false, "KVM is there, but a trial boot failed: " + strings.TrimPrefix(why, "boot "+trial.String()+": ")
	}
	took := time.Since(began)
	if err := up.Stop(ctx); err != nil {
		return false, "KVM is there, but a trial boot did not end: " + err.Error()
	}
	return true, fmt.Sprintf("KVM, which booted this image in %v", took.Round(10*time.Millisecond))
}
