package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/stock"
	"github.com/vpclab/vpclab/emu/vmm"
	"github.com/vpclab/vpclab/emu/vmm/trust"
)

// newGuestQEMU says whether the QEMU of VMs may move them while they run.
func newGuestQEMU() *cobra.Command {
	var again bool
	cmd := &cobra.Command{
		Use:   "guest-qemu",
		Short: "say whether the QEMU that VMs run in may be trusted to move them, by a trial",
		Long: `Find the QEMU that VMs with a kernel of their own run in ($VPCLAB_GUEST_QEMU, then what ./run.sh guest-qemu has unpacked, then the system's), and say
whether its live migration may be trusted: a small VM that writes all the time is moved between two of its processes on this machine, three times over, and
compares after each all of its memory with what it wrote. That takes 10 to 30 s, once for each program and kernel; what came of it is kept in the cache folder.

The exit code is 0 if it may be trusted, else 3.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := verdictOnQEMU(cmd.Context(), cmd.ErrOrStderr(), again)
			if err != nil {
				return err
			}
			if err := v.Err(); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s (%s), with kernel %s by %s, may move VMs that run: %s (in %v).\n",
				v.QEMU, v.Version, v.Kernel, v.Accel, v.Why, v.Took.Round(100*time.Millisecond))
			return nil
		},
	}
	cmd.Flags().BoolVar(&again, "again", false, "make the trial even where its outcome is known")
	return cmd
}

// verdictOnQEMU asks for the verdict on the QEMU of VMs, and says so where that
// takes a while.
func verdictOnQEMU(ctx context.Context, say io.Writer, again bool) (*trust.Verdict, error) {
	q, err := stock.FindGuestQEMU(ctx)
	if err != nil {
		return nil, err
	}
	image, err := stock.FindImage()
	if err != nil {
		return nil, err
	}
	ask := trust.Ask
	if again {
		ask = trust.AskAgain
	}
	return ask(ctx, q, image, vmm.Accel(), func() {
		fmt.Fprintf(say, "trying whether %s (%s) may move VMs that run; that takes 10 to 30 s, once\n", q.Path, q.Version)
	})
}
