package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
)

// The run has a room of its own: namespaces of processes, of the network and of
// mounts. When the first process in it ends, however that comes, the kernel ends all
// others and takes the network down; nothing outside is ever touched.

// enterRoom runs this program again in a fresh room, with the same arguments and a
// folder for its files, and returns its exit code.
func enterRoom(keep string) (int, error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("network namespaces need root")
	}
	for _, tool := range []string{"ip", "nft", "mount", "sysctl"} {
		if _, err := exec.LookPath(tool); err != nil {
			return 1, fmt.Errorf("%w: apt-get install iproute2 nftables mount procps", err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	dir := keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "fantail-chaos"); err != nil {
			return 1, err
		}
		defer os.RemoveAll(dir)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	cmd := exec.CommandContext(ctx, self, append([]string{"-inside", dir}, os.Args[1:]...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWNET | syscall.CLONE_NEWPID,
		Unshareflags: syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return 1, nil // it has said why
	}
	if err != nil {
		return 1, fmt.Errorf("a room of its own (namespaces): %w", err)
	}
	return 0, nil
}

// The addresses of all parts. S2 and the balancer's side (readers, writers) are apart, so
// that a node can be cut from the one and not from the other.
const (
	clientsAt = "10.77.0.1"
	storeAt   = "10.77.0.2"
)

func nodeAt(i int) string { return fmt.Sprintf("10.77.1.%d", i+1) }

// furnish creates the bridge that connects all, and a namespace for each node.
func furnish(nodes int) error {
	lines := []string{
		"mount -t proc proc /proc",
		"mount -t tmpfs tmpfs /run",
		"mkdir /run/netns",
		"sysctl -qw net.ipv4.ip_local_port_range=5000 65000",
		"ip link set lo up",
		"ip link add br0 type bridge",
		"ip addr add " + clientsAt + "/16 dev br0",
		"ip addr add " + storeAt + "/16 dev br0",
		"ip link set br0 up",
	}
	for i := range nodes {
		n := fmt.Sprint("n", i)
		lines = append(lines,
			"ip netns add "+n,
			fmt.Sprintf("ip link add v%d type veth peer name eth0 netns %s", i, n),
			fmt.Sprintf("ip link set v%d master br0 up", i),
			fmt.Sprintf("ip -n %s addr add %s/16 dev eth0", n, nodeAt(i)),
			fmt.Sprintf("ip -n %s link set eth0 up", n),
			fmt.Sprintf("ip -n %s link set lo up", n),
			"ip netns exec "+n+" nft add table inet chaos",
			"ip netns exec "+n+" nft add chain inet chaos in { type filter hook input priority 0 ; }",
			"ip netns exec "+n+" nft add chain inet chaos out { type filter hook output priority 0 ; }",
		)
	}
	for _, line := range lines {
		f := strings.Fields(line)
		if strings.HasPrefix(line, "sysctl") { // a value with a space in it
			f = append(f[:2], strings.Join(f[2:], " "))
		}
		if err := sh(f...); err != nil {
			return err
		}
	}
	return nil
}

func sh(command ...string) error {
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, out)
	}
	return nil
}

// drop has node i lose what matches, such as "in ip saddr 10.77.0.2".
func drop(i int, match string) error {
	chain, expr, _ := strings.Cut(match, " ")
	f := append(strings.Fields("ip netns exec"), fmt.Sprint("n", i), "nft", "add", "rule", "inet", "chaos", chain)
	return sh(append(append(f, strings.Fields(expr)...), "counter", "drop")...)
}

// mend takes node i's drops away and returns how many packets each of them took.
func mend(i int) (dropped []int, err error) {
	n := fmt.Sprint("n", i)
	out, err := exec.Command("ip", "netns", "exec", n, "nft", "-j", "list", "table", "inet", "chaos").Output()
	if err != nil {
		return nil, err
	}
	var listing struct {
		Nftables []struct {
			Rule struct {
				Expr []struct {
					Counter struct{ Packets *int }
				}
			}
		}
	}
	if err := json.Unmarshal(out, &listing); err != nil {
		return nil, err
	}
	for _, item := range listing.Nftables {
		for _, e := range item.Rule.Expr {
			if e.Counter.Packets != nil {
				dropped = append(dropped, *e.Counter.Packets)
			}
		}
	}
	return dropped, sh("ip", "netns", "exec", n, "nft", "flush", "table", "inet", "chaos")
}
