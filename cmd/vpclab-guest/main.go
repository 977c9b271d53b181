// Command vpclab-guest is process 1 of the VMs of a lab whose guests have a kernel
// of their own. It is packed into vpclab, which starts those VMs; on its own it is
// of no use.
package main

import (
	"fmt"
	"os"

	"github.com/vpclab/vpclab/emu/vmm/inside"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "vpclab-guest is process 1 of a VM that vpclab starts, and does nothing elsewhere")
		os.Exit(2)
	}
	inside.Main()
}
