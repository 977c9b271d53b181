package vmm

import (
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"io"

	"github.com/vpclab/vpclab/emu/stock"
)

//go:generate ../../run.sh payload

// payload has the program in the guests, if it was built before vpclab was.
//
//go:embed payload
var payload embed.FS

const payloadName = "payload/vpclab-guest.gz"

// Program is process 1 of a VM, for x86-64. The error is a *stock.Missing where
// vpclab was built without it.
func Program() ([]byte, error) {
	packed, err := payload.ReadFile(payloadName)
	if err != nil {
		return nil, &stock.Missing{
			What: "this vpclab was built without the program that runs in VMs with a kernel of their own",
			Fix:  "build it by ./run.sh build; or by go generate ./emu/vmm, and then go build ./cmd/vpclab",
		}
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	var program []byte
	if err == nil {
		program, err = io.ReadAll(r)
	}
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", payloadName, err)
	}
	return program, nil
}
