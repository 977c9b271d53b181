// Package traffic sends probes between the machines of a lab and says, with
// evidence, who could reach whom and when.
//
// Division of labour:
//
//   - probe.go: the bytes of a probe;
//   - prober.go: [Prober], one UDP socket inside each machine's namespace, all
//     in this process, and the goroutine that serves each;
//   - matrix.go: [Prober.Matrix], every ordered pair asked, allowed pairs until
//     they answer, forbidden pairs for long enough to have answered;
//   - ether.go, header.go: [Ether], sockets below IP at many stations, and the
//     headers of frames;
//   - frames.go: [Ether.Frames], every ordered pair asked with broadcast and
//     unicast frames;
//   - cast.go, neighbour.go: [Ether.Cast], single frames of the kinds that make
//     a LAN one (broadcast, multicast, ARP, neighbour discovery): who hears
//     each, how often, and who answers;
//   - sizes.go: [Prober.Sizes], which lengths of packets cross, and what
//     becomes of the others;
//   - train.go: [Prober.Train], numbered probes at a steady pace over many
//     flows: first packet through, last packet through, what was lost between,
//     and how long each was under way;
//   - bulk.go: [Prober.OpenBulk], TCP flows, greedy or with a rate, started and
//     paused at will; goodput.go: what of them arrived, over time;
//   - users.go: [OpenUsers], emulated users of a server with a TCP connection
//     each; resets.go, silence.go: what breaks and what stands still for them.
//
// A machine's socket is an ordinary UDP socket of its namespace: the probe is
// routed, labelled, filtered and queued by the kernel like any other packet,
// and waits for neighbour resolution like any other. Every arrival is logged
// at the receiver, whether or not the answer comes back, so a leak in one
// direction is seen, and every probe and answer carries its sender's identity,
// so two machines with the same address cannot be taken for one another.
//
// The package does not decide what is allowed (scenarios does) and does not
// enter namespaces by itself (fabric.Do does).
package traffic
