package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

func TestRedisAddresses(t *testing.T) {
	t.Parallel()
	t.Run("of one server", func(t *testing.T) {
		for address, want := range map[string]redis.Options{
			"redis://r":                            {Network: "tcp", Addr: "r:6379"},
			"redis://u:a,b%2Fc@r:1/3?pool_size=7":  {Network: "tcp", Addr: "r:1", Username: "u", Password: "a,b/c", DB: 3, PoolSize: 7},
			"rediss://:p@[::1]":                    {Network: "tcp", Addr: "[::1]:6379", Password: "p"},
			"unix:///run/r.sock?db=2":              {Network: "unix", Addr: "/run/r.sock", DB: 2},
			"unix://u:p@/run/r.sock?pool_size=100": {Network: "unix", Addr: "/run/r.sock", Username: "u", Password: "p", PoolSize: 100},
		} {
			o, err := parseRedisURL(address)
			if err != nil || o.server == nil {
				t.Errorf("%s: got %+v, %v", address, o, err)
				continue
			}
			got := redis.Options{Network: o.server.Network, Addr: o.server.Addr, Username: o.server.Username, Password: o.server.Password, DB: o.server.DB, PoolSize: o.server.PoolSize}
			if fmt.Sprint(got) != fmt.Sprint(want) || (o.server.TLSConfig != nil) != strings.HasPrefix(address, "rediss:") {
				t.Errorf("%s: got %+v, want %+v", address, got, want)
			}
		}
	})
	t.Run("of a Cluster", func(t *testing.T) {
		for address, want := range map[string][]string{
			"redis://a,redis://b:1,redis://[::1]:2":                         {"", "", "a:6379", "b:1", "[::1]:2"},
			"redis://u:p,q@a:1,redis://u:p,q@b:2":                           {"u", "p,q", "a:1", "b:2"},
			"rediss://:p@a:1/0?pool_size=3,rediss://:p@a:1/0?pool_size=3":   {"", "p", "a:1", "a:1"},
			"redis://a:1?read_timeout=2s,redis://b?read_timeout=2s":         {"", "", "a:1", "b:6379"},
			"redis://:%2Credis%3A%2F%2F@a:1,redis://:%2Credis%3A%2F%2F@b:2": {"", ",redis://", "a:1", "b:2"},
		} {
			o, err := parseRedisURL(address)
			if err != nil || o.cluster == nil {
				t.Errorf("%s: got %+v, %v", address, o, err)
				continue
			}
			if got := append([]string{o.cluster.Username, o.cluster.Password}, o.cluster.Addrs...); !slices.Equal(got, want) || (o.cluster.TLSConfig != nil) != strings.HasPrefix(address, "rediss:") {
				t.Errorf("%s: got %v, want %v", address, got, want)
			}
		}
	})
	t.Run("of Sentinels", func(t *testing.T) {
		for address, want := range map[string][]string{
			"redis+sentinel://s/m":                    {"m", "0", "", "", "", "", "s:26379"},
			"redis+sentinel://u:p@s:1,[::1],s3:3/m/4": {"m", "4", "u", "p", "", "", "s:1", "[::1]:26379", "s3:3"},
			"rediss+sentinel://:p%40@s,t/m?db=2&sentinel_username=w&sentinel_password=x%26&pool_size=40": {"m", "2", "", "p@", "w", "x&", "s:26379", "t:26379"},
		} {
			o, err := parseRedisURL(address)
			if err != nil || o.sentinel == nil {
				t.Errorf("%s: got %+v, %v", address, o, err)
				continue
			}
			f := o.sentinel
			got := append([]string{f.MasterName, strconv.Itoa(f.DB), f.Username, f.Password, f.SentinelUsername, f.SentinelPassword}, f.SentinelAddrs...)
			if !slices.Equal(got, want) || (f.TLSConfig != nil) != strings.HasPrefix(address, "rediss+") {
				t.Errorf("%s: got %v, want %v", address, got, want)
			}
		}
	})
	t.Run("that are wrong are refused with the rule, and without what was given", func(t *testing.T) {
		for address, want := range map[string]error{
			"":                              errRedisURL,
			"hunter2:6379":                  errRedisURL,
			"redis://hunter2/x":             errRedisURL,
			"redis://a:1,b:2":               errRedisURL,
			"redis://a:1, redis://b:2":      errRedisURL,
			"redis://a:1,redis://b:hunter2": errRedisURL,
			"redis://a:1?hunter2=1,redis://b:2?hunter2=1":             errRedisURL,
			"redis://a:1,rediss://b:2":                                errClusterURL,
			"redis://u:hunter2@a,redis://u:hunter3@b":                 errClusterURL,
			"redis://a,redis://b?pool_size=3":                         errClusterURL,
			"redis://a:1/1,redis://b:2/1":                             errClusterDB,
			"redis://a:1?read_only=1,redis://b:2?read_only=1":         errRedisURL,
			"redis+sentinel://hunter2:26379":                          errSentinelName,
			"redis+sentinel://hunter2:26379//1":                       errSentinelName,
			"redis+sentinel:///m":                                     errRedisURL,
			"redis+sentinel://a,,b/m":                                 errRedisURL,
			"redis+sentinel://a:hunter2/m":                            errRedisURL,
			"redis+sentinel://a/m/hunter2":                            errRedisURL,
			"redis+sentinel://a/m?hunter2=1":                          errRedisURL,
			"redis+sentinel://a/m?route_randomly=true":                errReplicaReads,
			"redis+sentinel://a/m?replica_only=true":                  errReplicaReads,
			"redis+sentinel://:hunter2@a:1/m,redis+sentinel://b:2/m/": errRedisURL,
		} {
			_, err := parseRedisURL(address)
			if err != want || strings.Contains(err.Error(), "hunter") {
				t.Errorf("%s: got %v, want %v", address, err, want)
			}
			if _, err := openRedis(address); err == nil || !strings.HasPrefix(err.Error(), "REDIS_URL must") {
				t.Errorf("%s: got %v when opened", address, err)
			}
		}
	})
}

func TestRedisIsJudgedByWhatItSaysOfItself(t *testing.T) {
	t.Parallel()
	good := map[string]string{"redis_version": "7.0.15", "redis_mode": "standalone", "maxmemory_policy": "noeviction", "aof_enabled": "1"}
	for _, test := range []struct {
		name, value string
		cluster     bool
		want        string // in the error or the warning
	}{
		{"redis_version", "6.2.0", false, ""},
		{"redis_version", "10.0.1", false, ""},
		{"redis_version", "6.0.20", false, "is version 6.0.20; TaskFlow needs 6.2 or newer"},
		{"redis_version", "5.0.14", false, "is version 5.0.14; TaskFlow needs 6.2 or newer"},
		{"redis_version", "", false, "needs 6.2 or newer"},
		{"maxmemory_policy", "allkeys-lru", false, "set maxmemory-policy to noeviction (it is allkeys-lru)"},
		{"maxmemory_policy", "volatile-ttl", true, "set maxmemory-policy to noeviction (it is volatile-ttl)"},
		{"redis_mode", "cluster", true, ""},
		{"redis_mode", "cluster", false, "give REDIS_URL the addresses of several nodes"},
		{"aof_enabled", "0", false, "set appendonly yes"},
	} {
		info := "# Server\r\n"
		for name, value := range good {
			if name == test.name {
				value = test.value
			}
			info += name + ":" + value + "\r\n"
		}
		warning, err := judgeRedis(info, test.cluster)
		said := warning
		if err != nil {
			said = err.Error()
		}
		if (said == "") != (test.want == "") || !strings.Contains(said, test.want) || (err == nil) != (test.want == "" || test.name == "aof_enabled") {
			t.Errorf("%s %s: got %q, %v; want %q", test.name, test.value, warning, err, test.want)
		}
	}
}

// redisNodes are Redis servers of one test, on loopback ports.
type redisNodes struct {
	t     *testing.T
	forks forker
	dir   string
}

func newRedisNodes(t *testing.T) *redisNodes {
	t.Helper()
	dir, err := os.MkdirTemp("", "taskflow-redis-")
	if err != nil {
		t.Fatal(err)
	}
	n := &redisNodes{t, newForker(), dir}
	t.Cleanup(func() {
		close(n.forks)
		os.RemoveAll(dir)
	})
	return n
}

// redisNode is one of them.
type redisNode struct {
	t      *testing.T
	port   string
	child  *childServer
	client *redis.Client
}

// freePort is below the ports that the system gives to outgoing connections, which could otherwise
// take it before its server does.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := strconv.Itoa(10_000 + rand.N(20_000))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return ""
}

// start starts a server with the arguments that args makes of its port, and waits until it answers.
func (n *redisNodes) start(password string, args func(port string) []string) *redisNode {
	n.t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		n.t.Fatal(err)
	}
	for try := 0; ; try++ {
		port := freePort(n.t)
		log, err := openChildLog(filepath.Join(n.dir, port+".log"))
		if err != nil {
			n.t.Fatal(err)
		}
		defer log.Close()
		child, err := n.forks.start("Redis "+port, self(), syscall.SIGKILL, n.dir, log, path,
			append(args(port), "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dbfilename", port+".rdb")...)
		if err != nil {
			n.t.Fatal(err)
		}
		node := &redisNode{n.t, port, child, redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + port, Password: password, Protocol: 2, DialerRetries: 1})}
		n.t.Cleanup(func() {
			node.client.Close()
			node.kill()
		})
		ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
		err = child.waitUntil(ctx, func(ctx context.Context) (bool, error) { return node.client.Ping(ctx).Err() == nil, nil })
		cancel()
		if err == nil {
			return node
		}
		if try == 3 { // not just a port that another took
			n.t.Fatal(err)
		}
	}
}

// kill is kill -9.
func (n *redisNode) kill() {
	n.child.cmd.Process.Kill()
	<-n.child.done
}

// do sends a command and fails the test if it fails.
func (n *redisNode) do(args ...any) {
	n.t.Helper()
	if err := n.client.Do(n.t.Context(), args...).Err(); err != nil {
		n.t.Fatalf("%v at %s: %v", args, n.port, err)
	}
}

// says tells whether the server's INFO has a line.
func (n *redisNode) says(section, line string) bool {
	text, err := n.client.Info(n.t.Context(), section).Result()
	return err == nil && strings.Contains(text, line+"\r\n")
}

// cut keeps a replica from hearing any more of its master, so that it falls behind: the master
// breaks the connection, and refuses the password with which the replica comes back.
func cut(t *testing.T, master, replica *redisNode) {
	t.Helper()
	replica.do("CONFIG", "SET", "masterauth", "wrong")
	master.do("CLIENT", "KILL", "TYPE", "replica")
	eventually(t, time.Minute, "the replica is cut off", func() bool { return replica.says("replication", "master_link_status:down") })
}

// startRedisCluster starts three masters and, in the same order, a replica of each. A replica counts
// as one once it has heard something of its master, if only a ping.
func startRedisCluster(t *testing.T) []*redisNode {
	t.Helper()
	servers := newRedisNodes(t)
	var nodes []*redisNode
	bus := map[*redisNode]string{}
	for range 6 {
		var busPort string
		node := servers.start("", func(port string) []string {
			busPort = freePort(t)
			return []string{"--cluster-enabled", "yes", "--cluster-config-file", port + ".conf", "--cluster-port", busPort, "--cluster-node-timeout", "1000",
				"--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"}
		})
		nodes, bus[node] = append(nodes, node), busPort
	}
	for i, node := range nodes {
		node.do("CLUSTER", "SET-CONFIG-EPOCH", i+1)
		node.do("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, bus[nodes[0]])
	}
	for i, master := range nodes[:3] {
		master.do("CLUSTER", "ADDSLOTSRANGE", i*16384/3, (i+1)*16384/3-1)
	}
	for i, replica := range nodes[3:] {
		id, err := nodes[i].client.ClusterMyID(t.Context()).Result()
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "the replica knows its master", func() bool {
			return replica.client.ClusterReplicate(t.Context(), id).Err() == nil
		})
	}
	eventually(t, time.Minute, "the Cluster is whole", func() bool {
		for i, node := range nodes {
			slots, err := node.client.Do(t.Context(), "CLUSTER", "SLOTS").Slice() // first, last, and then the nodes
			if err != nil || len(slots) != 3 || slices.ContainsFunc(slots, func(s any) bool { return len(s.([]any)) != 4 }) {
				return false
			}
			info, err := node.client.ClusterInfo(t.Context()).Result()
			if err != nil || !strings.Contains(info, "cluster_state:ok") || i >= 3 && !node.says("replication", "master_link_status:up") {
				return false
			}
		}
		return true
	})
	return nodes
}

func TestRedisCluster(t *testing.T) {
	t.Parallel()
	nodes := startRedisCluster(t)
	var addresses []string
	for _, node := range nodes {
		addresses = append(addresses, "redis://127.0.0.1:"+node.port)
	}
	address := strings.Join(addresses, ",")
	ts := newTestServer(t, "REDIS_URL="+address)
	q := ts.outbox.queue

	ts.run("has one life while nothing happens, whichever node is asked", func(t *testing.T) {
		first, err := q.epoch(t.Context())
		for range 10 {
			if again, nextErr := q.epoch(t.Context()); err != nil || nextErr != nil || again != first {
				t.Fatalf("got %q, %v, then %q, %v", first, err, again, nextErr)
			}
		}
		if err := q.redis.Del(t.Context(), q.prefix+"epoch").Err(); err != nil {
			t.Fatal(err)
		}
		if again, err := q.epoch(t.Context()); err != nil || again == first {
			t.Errorf("after a flush: got %q again, %v", again, err)
		}
	})
	ts.run("is looked at by its own clock", func(t *testing.T) {
		give(t, q, "a")
		state, err := q.state(t.Context())
		if err != nil || state.Ready[normalPriority] != 1 || state.OldestMs < 0 || state.OldestMs > 60_000 {
			t.Errorf("got %+v, %v", state, err)
		}
		if err := q.remove(t.Context(), []string{"a"}); err != nil {
			t.Error(err)
		}
		eventually(t, time.Minute, "it is ready", func() bool { return ts.anonymous().get("/ready").status == 200 })
	})
	ts.run("is refused when any master would lose jobs, by its address", func(t *testing.T) {
		if warning, err := q.checkRedis(t.Context()); err != nil || !strings.Contains(warning, "appendonly") {
			t.Errorf("got %q, %v", warning, err)
		}
		for _, master := range nodes[:3] {
			master.do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
			_, err := q.checkRedis(t.Context())
			wantWords(t, err, "127.0.0.1:"+master.port+": Redis would evict", "set maxmemory-policy to noeviction")
			master.do("CONFIG", "SET", "maxmemory-policy", "noeviction")
		}
	})
	ts.run("is not taken for one server, nor one server for it", func(t *testing.T) {
		for address, want := range map[string]string{
			"redis://127.0.0.1:" + nodes[0].port:                                         "give REDIS_URL the addresses of several nodes",
			tcpRedis(t) + "," + tcpRedis(t):                                              "give REDIS_URL one address",
			"redis://127.0.0.1:" + nodes[0].port + ",redis://127.0.0.1:" + nodes[0].port: "",
		} {
			client, err := openRedis(address)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			_, err = newQueue(client, "t", "default").checkRedis(t.Context())
			if want == "" && err != nil {
				t.Errorf("%s: %v", address, err)
			} else if want != "" {
				wantWords(t, err, want)
			}
		}
	})
	master, err := q.redis.(*redis.ClusterClient).MasterForKey(t.Context(), q.prefix)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(nodes[:3], func(n *redisNode) bool { return n.client.Options().Addr == master.Options().Addr })
	ts.exec(`CREATE TABLE effects (job uuid)`)
	ts.withKind(countKind)
	ts.startWorking()
	ts.run("loses and doubles no job while the queue's slot moves to another node", func(t *testing.T) {
		made := int64(0)
		make10 := func() {
			for i := range 10 {
				ts.enqueue(newJob{kind: "count", payload: 1, priority: i % priorities, runAt: time.Now().Add(time.Duration(i) * 200 * time.Millisecond)})
			}
			made += 10
		}
		make10()
		ts.outbox.pushing.Wait()
		eventually(t, time.Minute, "jobs are done", func() bool { return ts.effects() > 0 })
		moveSlot(t, q.prefix, nodes[at], nodes[(at+1)%3], make10)
		at = (at + 1) % 3
		eventually(t, time.Minute, "all jobs are done", func() bool { return ts.living() == 0 })
		if n := ts.effects(); n != made {
			t.Errorf("%d jobs have %d effects", made, n)
		}
		ts.exec(`TRUNCATE effects`)
	})
	ts.run("loses and doubles no job when a master is killed whose replica was behind", func(t *testing.T) {
		runThroughFailOver(t, ts, nodes[at], nodes[at+3])
	})
}

func TestRedisSentinel(t *testing.T) {
	t.Parallel()
	servers := newRedisNodes(t)
	const password, sentinelPassword = "of redis", "of sentinels"
	secured := []string{"--requirepass", password, "--masterauth", password, "--repl-diskless-sync-delay", "0"}
	master := servers.start(password, func(string) []string { return secured })
	replica := servers.start(password, func(string) []string { return append(secured, "--replicaof", "127.0.0.1 "+master.port) })
	var sentinels []*redisNode
	var hosts []string
	for range 3 {
		sentinel := servers.start(sentinelPassword, func(port string) []string {
			file := filepath.Join(servers.dir, port+".conf")
			settings := fmt.Sprintf("sentinel monitor tasks 127.0.0.1 %s 2\nsentinel down-after-milliseconds tasks 2000\nsentinel failover-timeout tasks 5000\n"+
				"sentinel auth-pass tasks %q\nrequirepass %q\n", master.port, password, sentinelPassword)
			if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{file, "--sentinel"}
		})
		sentinels, hosts = append(sentinels, sentinel), append(hosts, "127.0.0.1:"+sentinel.port)
	}
	eventually(t, time.Minute, "the Sentinels know each other and the replica", func() bool {
		for _, sentinel := range sentinels {
			known, err := sentinel.client.Do(t.Context(), "SENTINEL", "MASTER", "tasks").StringSlice()
			if err != nil {
				return false
			}
			said := strings.Join(known, " ")
			if !strings.Contains(said, "num-slaves 1 num-other-sentinels 2 ") || !strings.Contains(said, "flags master ") {
				return false
			}
		}
		return replica.says("replication", "master_link_status:up")
	})
	ts := newTestServer(t, "REDIS_URL=redis+sentinel://:of%20redis@"+strings.Join(hosts, ",")+"/tasks/1?sentinel_password=of%20sentinels")
	if warning, err := ts.outbox.queue.checkRedis(t.Context()); err != nil || !strings.Contains(warning, "appendonly") {
		t.Errorf("got %q, %v", warning, err)
	}
	eventually(t, time.Minute, "it is ready", func() bool { return ts.anonymous().get("/ready").status == 200 })
	ts.exec(`CREATE TABLE effects (job uuid)`)
	ts.withKind(countKind)
	ts.startWorking()
	runThroughFailOver(t, ts, master, replica)
}

// countKind is a job whose effect shows when it happens twice.
var countKind = jobKind{name: "count", run: func(_ context.Context, j job, effect *pgx.Batch) error {
	effect.Queue(`INSERT INTO effects VALUES ($1)`, j.ID)
	return nil
}}

// moveSlot moves the slot of a key from one master of a Cluster to another, one key after the other as
// an operator's tools do, and calls between before each.
func moveSlot(t *testing.T, key string, from, to *redisNode, between func()) {
	t.Helper()
	slot, err := from.client.ClusterKeySlot(t.Context(), key).Result()
	if err != nil {
		t.Fatal(err)
	}
	source, target := from.client.ClusterMyID(t.Context()).Val(), to.client.ClusterMyID(t.Context()).Val()
	to.do("CLUSTER", "SETSLOT", slot, "IMPORTING", source)
	from.do("CLUSTER", "SETSLOT", slot, "MIGRATING", target)
	moved := 0
	for {
		between()
		keys, err := from.client.ClusterGetKeysInSlot(t.Context(), int(slot), 1).Result()
		if err != nil {
			t.Fatal(err)
		}
		if len(keys) == 0 {
			break
		}
		from.do("MIGRATE", "127.0.0.1", to.port, keys[0], 0, 5000)
		moved++
	}
	if moved < 5 {
		t.Errorf("only %d keys moved", moved)
	}
	to.do("CLUSTER", "SETSLOT", slot, "NODE", target)
	from.do("CLUSTER", "SETSLOT", slot, "NODE", target)
}

// tcpRedis is the address of the tests' Redis by way of a port.
func tcpRedis(t *testing.T) string {
	t.Helper()
	return "redis://" + newSwitchable(t, strings.TrimPrefix(world.redisURL, "unix://")).listener.Addr().String()
}

// offset is how far a server is in what masters tell their replicas.
func (n *redisNode) offset() string {
	n.t.Helper()
	text, err := n.client.Info(n.t.Context(), "replication").Result()
	if err != nil {
		n.t.Fatal(err)
	}
	_, text, _ = strings.Cut(text, "master_repl_offset:")
	text, _, _ = strings.Cut(text, "\r\n")
	return text
}

// runThroughFailOver runs jobs, cuts the replica off, and kills the master when it has jobs that the
// replica does not know of, and others that the replica does not know to be done. Each job's effect
// must happen once, soon after.
func runThroughFailOver(t *testing.T, ts *testServer, master, replica *redisNode) {
	t.Helper()
	made := int64(0)
	make50 := func(runAt time.Time) (ids []string) {
		t.Helper()
		for i := range 50 {
			ids = append(ids, ts.enqueue(newJob{kind: "count", payload: 1, priority: i % priorities, runAt: runAt}))
		}
		made += 50
		return ids
	}
	admin := ts.signUp("Ada")
	make50(time.Time{})
	eventually(t, time.Minute, "jobs are done", func() bool { return ts.effects() == made })

	make50(time.Now().Add(2 * time.Second)) // the replica hears of them, but not of their end
	ts.outbox.pushing.Wait()
	eventually(t, time.Minute, "the replica has heard all", func() bool { return replica.offset() == master.offset() })
	cut(t, master, replica)
	cutAt := time.Now()
	unheard := make50(cutAt.Add(time.Hour)) // of which it never hears, and which will be too old for the relay's look at young ones
	eventually(t, time.Minute, "all but these are done, and they are old", func() bool {
		return ts.effects() == made-50 && time.Since(cutAt) > relayEvery+3*pushGrace
	})
	before, err := ts.outbox.queue.epoch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	make50(time.Time{})
	killed := time.Now()
	master.kill()
	eventually(t, time.Minute, "the replica takes over", func() bool {
		make50(time.Time{})
		return replica.says("replication", "role:master")
	})
	took := time.Since(killed)
	eventually(t, sweepEvery/2, "the jobs it never heard of wait there", func() bool {
		lost, err := ts.outbox.queue.missing(t.Context(), unheard)
		return err == nil && len(lost) == 0
	})
	swept := time.Since(killed)
	for _, id := range unheard {
		admin.post("/api/v1/admin/jobs/"+id+"/retry", "").want(204) // run them now
	}
	eventually(t, time.Minute, "all jobs are done", func() bool { return ts.living() == 0 })
	t.Logf("the replica took over after %v, had all jobs after %v, all were done after %v",
		took.Round(time.Millisecond), swept.Round(time.Millisecond), time.Since(killed).Round(time.Millisecond))
	if after, err := ts.outbox.queue.epoch(t.Context()); err != nil || after == before {
		t.Errorf("the replica's data pass for the master's: got epoch %q, %v, after %q", after, err, before)
	}
	different, err := queryValue[int64](t.Context(), ts.db, `SELECT count(DISTINCT job) FROM effects`)
	if n := ts.effects(); err != nil || n != made || different != made {
		t.Errorf("%d jobs have %d effects, of %d jobs (%v)", made, n, different, err)
	}
	eventually(t, time.Minute, "Redis forgets them", func() bool { return has(t, ts.outbox.queue) == [5]int64{} })
}
