package inside

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/guest"
)

// Protocol counts the changes of what a keeper and the process inside say to each
// other. They are built apart, and one may be older than the other.
const Protocol = 1

// Orders tell the process inside what to be.
type Orders struct {
	Protocol int
	// Spec is the VM's. Its Work is the memory that the workload gets; its Trace
	// is a path inside (see TraceFile).
	Spec guest.Spec
	// Address of eth0 and the length of its prefix; zero: the VM has no network card.
	// Gateway is the default route's, if there is to be one.
	Address netip.Prefix
	Gateway netip.Addr
	MTU     int // of eth0; 0: as it comes
}

// Names in the initial file system.
const (
	// ModulesDir has the modules' files, named so that they sort into the order of
	// loading.
	ModulesDir = "/modules"
	// TraceFile is a recording for workload trace.
	TraceFile = "/trace"
)

// envOrders is a word of the kernel's command line. The kernel knows none of
// that name, and so it is in the environment of process 1.
const envOrders = "VPCLAB_GUEST"

// mostLine is what a kernel for x86 reads of its command line
// (COMMAND_LINE_SIZE).
const mostLine = 2048

// Word is the orders as a word of the kernel's command line.
func (o Orders) Word() (string, error) {
	o.Protocol = Protocol
	b, err := json.Marshal(o)
	if err != nil {
		return "", fmt.Errorf("orders for VM %s: %w", o.Spec.Name, err)
	}
	word := envOrders + "=" + base64.RawURLEncoding.EncodeToString(b)
	if len(word) > mostLine/2 {
		return "", fmt.Errorf("orders for VM %s take %d bytes of the kernel's command line: want at most %d", o.Spec.Name, len(word), mostLine/2)
	}
	return word, nil
}

// parseOrders reads what Word made, without the name.
func parseOrders(text string) (Orders, error) {
	var o Orders
	if text == "" {
		return o, fmt.Errorf("the kernel's command line has no word %s=…", envOrders)
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return o, fmt.Errorf("orders: %w", err)
	}
	var p struct{ Protocol int }
	if err := json.Unmarshal(b, &p); err != nil {
		return o, fmt.Errorf("orders: %w", err)
	}
	if p.Protocol != Protocol {
		return o, stale("the orders", p.Protocol)
	}
	if err := child.Decode(b, &o); err != nil {
		return o, fmt.Errorf("orders: %w", err)
	}
	if o.Address.IsValid() && !o.Address.Addr().Is4() {
		return o, fmt.Errorf("orders with the address %v: want an IPv4 address", o.Address)
	}
	if !o.Address.IsValid() && o.Spec.Port != 0 {
		return o, errors.New("orders without an address for a VM that has clients")
	}
	return o, nil
}

// stale is the error of two that were not built together.
func stale(who string, theirs int) error {
	return fmt.Errorf("%s are of version %d, and this program of version %d: vpclab and the program in its guests were not built together; mend it: ./run.sh build", who, theirs, Protocol)
}

// quiet are words for a stock kernel in a machine whose instructions are
// translated: they spare it what serves no guest, in time and memory. The files of
// tracefs alone take a third of the start and 8 MB.
var quiet = []string{
	"console=ttyS0", "quiet", "printk.time=0",
	"panic=-1", "oops=panic", "panic_on_oom=1", // with -no-reboot: QEMU ends, and is not a VM that half works
	"rdinit=/init",
	"initcall_blacklist=init_kprobe_trace,crypto_kdf108_init,tracer_init_tracefs,init_zswap",
	"cryptomgr.notests", "lsm=", "audit=0", "random.trust_cpu=on", "mitigations=off",
	"ipv6.disable_ipv6=1", // it is built in
	"pci=off",             // a microvm has none
	"no_timer_check", "nr_cpus=1", "nowatchdog", "log_buf_len=64K",
	// Control groups of memory take 4 MB of pointers; huge pages have 28 MB kept free
	// from 512 MB on.
	"cgroup_disable=memory", "cgroup.memory=nokmem", "transparent_hugepage=never",
}

// KernelLine is the command line of the kernel in a VM with these orders. tscKHz
// is the rate of the host's time stamp counter, which a machine whose instructions
// are translated has as its own; 0: it has another clock.
func KernelLine(o Orders, tscKHz int64) (string, error) {
	word, err := o.Word()
	if err != nil {
		return "", err
	}
	words := append([]string(nil), quiet...)
	if tscKHz != 0 {
		words = append(words, "tsc=reliable", fmt.Sprintf("tsc_early_khz=%d", tscKHz))
	}
	line := strings.Join(append(words, word), " ")
	if len(line) >= mostLine {
		return "", fmt.Errorf("the command line of VM %s's kernel has %d bytes: want less than %d", o.Spec.Name, len(line), mostLine)
	}
	return line, nil
}
