package check

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/awslabs/goformation/v7/schema"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

const (
	awsFile     = "deploy/aws/taskflow.yaml"
	awsMaxBytes = 51200 // of a template that is sent as it is, not by way of a bucket
)

// A template is deploy/aws/taskflow.yaml with its functions evaluated, as far as that goes without AWS:
// a reference to a resource is its name there, and one to an attribute name.attribute.
type template struct {
	root       *yaml.Node
	parameters map[string]*yaml.Node
	conditions map[string]*yaml.Node
	nodes      map[string]*yaml.Node // of resources
	resources  map[string]resource
	outputs    map[string]any
	all        bool // whether every condition holds, or none
}

type resource struct {
	Type       string
	Condition  string
	Properties map[string]any
	whole      map[string]any
}

// nothing is what AWS::NoValue becomes, until it is left out.
type nothing struct{}

func loadTemplate(t *testing.T, all bool) *template {
	t.Helper()
	var document yaml.Node
	if err := yaml.Unmarshal(read(t, awsFile), &document); err != nil {
		t.Fatalf("%s: %v", awsFile, err)
	}
	tpl := &template{root: document.Content[0], all: all, resources: map[string]resource{}}
	tpl.parameters, tpl.conditions = members(member(tpl.root, "Parameters")), members(member(tpl.root, "Conditions"))
	tpl.nodes = members(member(tpl.root, "Resources"))
	for name, node := range tpl.nodes {
		whole := tpl.value(node).(map[string]any)
		r := resource{whole: whole}
		r.Type, _ = whole["Type"].(string)
		r.Condition, _ = whole["Condition"].(string)
		r.Properties, _ = whole["Properties"].(map[string]any)
		tpl.resources[name] = r
	}
	tpl.outputs, _ = tpl.value(member(tpl.root, "Outputs")).(map[string]any)
	return tpl
}

// of is the resources of a type, by name.
func (tpl *template) of(kind string) map[string]resource {
	found := map[string]resource{}
	for name, r := range tpl.resources {
		if r.Type == kind {
			found[name] = r
		}
	}
	return found
}

func members(node *yaml.Node) map[string]*yaml.Node {
	found := map[string]*yaml.Node{}
	for i := 0; node != nil && i+1 < len(node.Content); i += 2 {
		found[node.Content[i].Value] = node.Content[i+1]
	}
	return found
}

func member(node *yaml.Node, name string) *yaml.Node { return members(node)[name] }

var variable = regexp.MustCompile(`\$\{([^!}][^}]*)\}`)

// value evaluates a node.
func (tpl *template) value(node *yaml.Node) any {
	switch node.Tag {
	case "!Ref":
		return tpl.ref(node.Value)
	case "!GetAtt":
		return node.Value
	case "!Sub":
		return variable.ReplaceAllStringFunc(node.Value, func(name string) string { return fmt.Sprint(tpl.ref(name[2 : len(name)-1])) })
	case "!If":
		if tpl.all {
			return tpl.value(node.Content[1])
		}
		return tpl.value(node.Content[2])
	case "!Select", "!GetAZs":
		return "zone"
	}
	switch node.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for name, child := range members(node) {
			if v := tpl.value(child); v != (nothing{}) {
				m[name] = v
			}
		}
		return m
	case yaml.SequenceNode:
		list := []any{}
		for _, child := range node.Content {
			if v := tpl.value(child); v != (nothing{}) {
				list = append(list, v)
			}
		}
		return list
	}
	var v any
	if err := node.Decode(&v); err != nil {
		return fmt.Sprintf("%s: %v", node.Tag, err)
	}
	if n, ok := v.(int); ok {
		return float64(n)
	}
	return v
}

// samples are what parameters without a default are set to.
var samples = map[string]string{
	"DomainName": "tasks.example.org", "CertificateArn": "arn:aws:acm:eu-central-1:123456789012:certificate/1", "AlarmEmail": "ops@example.org",
	"Image": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/taskflow:v2", "MigrationImage": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/taskflow:v2",
	"AWS::Region": "eu-central-1", "AWS::AccountId": "123456789012", "AWS::Partition": "aws", "AWS::StackName": "taskflow",
	"MailFrom": "TaskFlow <taskflow@example.org>", "SmtpSecretArn": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:smtp", "HostedZoneId": "Z1",
}

func (tpl *template) ref(name string) any {
	if name == "AWS::NoValue" {
		return nothing{}
	}
	if sample, ok := samples[name]; ok {
		return sample
	}
	if p, ok := tpl.parameters[name]; ok {
		if otherwise := member(p, "Default"); otherwise != nil {
			return tpl.value(otherwise)
		}
		return "no sample of " + name
	}
	return name
}

// addLater adds to the schema what AWS has added to CloudFormation since:
// https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-properties-ecs-service-deploymentconfiguration.html
// https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-properties-ecs-service-advancedconfiguration.html
func addLater(document any) {
	definitions := document.(map[string]any)["definitions"].(map[string]any)
	text := map[string]any{"type": "string"}
	deployment := definitions["AWS::ECS::Service.DeploymentConfiguration"].(map[string]any)["properties"].(map[string]any)
	deployment["Strategy"] = map[string]any{"enum": []any{"ROLLING", "BLUE_GREEN"}}
	deployment["BakeTimeInMinutes"] = map[string]any{"type": "number", "minimum": 0, "maximum": 1440}
	balancer := definitions["AWS::ECS::Service.LoadBalancer"].(map[string]any)["properties"].(map[string]any)
	balancer["AdvancedConfiguration"] = map[string]any{
		"type": "object", "additionalProperties": false, "required": []any{"AlternateTargetGroupArn", "ProductionListenerRule", "RoleArn"},
		"properties": map[string]any{"AlternateTargetGroupArn": text, "ProductionListenerRule": text, "TestListenerRule": text, "RoleArn": text},
	}
}

func TestAWSTemplateFitsTheSchemaOfEachResource(t *testing.T) {
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(schema.CloudformationSchema))
	if err != nil {
		t.Fatal(err)
	}
	addLater(document)
	// Of its 7000 definitions only those of types that are used; all would take a minute to look through.
	used := map[string]any{}
	all := loadTemplate(t, true).resources
	for name, definition := range document.(map[string]any)["definitions"].(map[string]any) {
		kind, _, _ := strings.Cut(name, ".")
		if name == "Tag" || slices.ContainsFunc(slices.Collect(maps.Values(all)), func(r resource) bool { return r.Type == kind }) {
			used[name] = definition
		}
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("cloudformation.json", map[string]any{"definitions": used}); err != nil {
		t.Fatal(err)
	}
	for _, all := range []bool{true, false} {
		for name, r := range loadTemplate(t, all).resources {
			kind, err := compiler.Compile("cloudformation.json#/definitions/" + r.Type)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			delete(r.whole, "Condition") // is of every type, but not in the schema
			if err := kind.Validate(r.whole); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// attributes are those that this template asks resources for, as AWS's reference has them.
var attributes = map[string][]string{
	"AWS::EC2::EIP": {"AllocationId"}, "AWS::EC2::SecurityGroup": {"GroupId"}, "AWS::S3::Bucket": {"Arn"}, "AWS::IAM::Role": {"Arn"}, "AWS::Logs::LogGroup": {"Arn"},
	"AWS::ElasticLoadBalancingV2::LoadBalancer": {"DNSName", "CanonicalHostedZoneID", "LoadBalancerFullName"},
	"AWS::RDS::DBInstance":                      {"Endpoint.Address", "MasterUserSecret.SecretArn"},
	"AWS::ElastiCache::ReplicationGroup":        {"PrimaryEndPoint.Address"},
	"AWS::ECS::Service":                         {"Name"},
	"AWS::CloudFront::Distribution":             {"DomainName"},
	"AWS::CloudFront::Function":                 {"FunctionARN"},
}

// uses calls use for every name that a node refers to, and for the attribute or "". under are the
// conditions that hold there.
func uses(node *yaml.Node, under []string, use func(name, attribute string, under []string)) {
	switch node.Tag {
	case "!Ref":
		use(node.Value, "", under)
	case "!GetAtt":
		name, attribute, _ := strings.Cut(node.Value, ".")
		use(name, attribute, under)
	case "!Sub":
		for _, found := range variable.FindAllStringSubmatch(node.Value, -1) {
			name, attribute, _ := strings.Cut(found[1], ".")
			use(name, attribute, under)
		}
	case "!If":
		uses(node.Content[1], append(slices.Clone(under), node.Content[0].Value), use)
		uses(node.Content[2], under, use)
		return
	}
	for _, child := range node.Content {
		uses(child, under, use)
	}
}

func TestAWSTemplateRefersToWhatIsThere(t *testing.T) {
	tpl := loadTemplate(t, true)
	used := map[string]bool{}
	needs := map[string][]string{} // resources by resource
	check := func(where string, node *yaml.Node, under []string) {
		uses(node, under, func(name, attribute string, under []string) {
			r, isResource := tpl.resources[name]
			_, isParameter := tpl.parameters[name]
			switch {
			case strings.HasPrefix(name, "AWS::"):
				if !slices.Contains([]string{"AWS::Region", "AWS::AccountId", "AWS::Partition", "AWS::StackName", "AWS::NoValue"}, name) {
					t.Errorf("%s: AWS has no %s", where, name)
				}
			case isParameter && attribute == "":
				used[name] = true
			case !isResource:
				t.Errorf("%s refers to %s, which is not there", where, name)
			case attribute != "" && !slices.Contains(attributes[r.Type], attribute):
				t.Errorf("%s asks %s for %s, which a %s does not have", where, name, attribute, r.Type)
			case r.Condition != "" && !slices.Contains(under, r.Condition):
				t.Errorf("%s refers to %s, which is not there unless %s", where, name, r.Condition)
			default:
				needs[where] = append(needs[where], name)
			}
		})
	}
	condition := func(where, name string) {
		if tpl.conditions[name] == nil {
			t.Errorf("%s: there is no condition %s", where, name)
		}
		used[name] = true
	}
	for name, node := range tpl.conditions {
		check(name, node, nil)
	}
	for name, node := range members(member(tpl.root, "Outputs")) {
		var under []string
		if c := member(node, "Condition"); c != nil {
			condition(name, c.Value)
			under = []string{c.Value}
		}
		check(name, node, under)
	}
	for name, r := range tpl.resources {
		var under []string
		if r.Condition != "" {
			condition(name, r.Condition)
			under = []string{r.Condition}
		}
		check(name, tpl.nodes[name], under)
		for _, other := range texts(r.whole["DependsOn"]) {
			if _, ok := tpl.resources[other]; !ok {
				t.Errorf("%s depends on %s, which is not there", name, other)
			}
			needs[name] = append(needs[name], other)
		}
	}
	var walk func(node *yaml.Node)
	walk = func(node *yaml.Node) {
		if node.Kind == yaml.AliasNode || node.Anchor != "" {
			t.Errorf("line %d: CloudFormation does not take anchors and aliases", node.Line)
		}
		if node.Tag == "!If" {
			condition("!If in line "+strconv.Itoa(node.Line), node.Content[0].Value)
		}
		for _, child := range node.Content {
			walk(child)
		}
	}
	walk(tpl.root)
	for name := range tpl.parameters {
		if !used[name] {
			t.Errorf("nothing uses the parameter %s", name)
		}
	}
	for name := range tpl.conditions {
		if !used[name] {
			t.Errorf("nothing uses the condition %s", name)
		}
	}
	for name := range tpl.resources {
		if circle := circleFrom(needs, name, nil); circle != nil {
			t.Errorf("resources need each other: %v", circle)
			break
		}
	}
	if size := len(read(t, awsFile)); size > awsMaxBytes {
		t.Errorf("%s has %d bytes, more than %d", awsFile, size, awsMaxBytes)
	}
}

func circleFrom(needs map[string][]string, name string, path []string) []string {
	if slices.Contains(path, name) {
		return append(path, name)
	}
	for _, next := range needs[name] {
		if circle := circleFrom(needs, next, append(slices.Clone(path), name)); circle != nil {
			return circle
		}
	}
	return nil
}

// texts is a text, or a list of them.
func texts(v any) (list []string) {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		for _, one := range v {
			list = append(list, fmt.Sprint(one))
		}
	}
	return list
}

// at follows members and indexes into a value; nil where there is none.
func at(v any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			list, _ := v.([]any)
			if step >= len(list) {
				return nil
			}
			v = list[step]
		}
	}
	return v
}

func entries(v any) (list []map[string]any) {
	all, _ := v.([]any)
	for _, one := range all {
		m, _ := one.(map[string]any)
		list = append(list, m)
	}
	return list
}

// container is the only one of a task.
func (tpl *template) container(t *testing.T, task string) map[string]any {
	t.Helper()
	all := entries(at(tpl.resources[task].Properties, "ContainerDefinitions"))
	if len(all) != 1 {
		t.Fatalf("%s has %d containers", task, len(all))
	}
	return all[0]
}

// secretSettings never stand in a task definition themselves, as whoever may look at it would see them.
var secretSettings = []string{"PGPASSWORD", "REDIS_URL", "JWT_SECRET", "JWT_SECRET_PREVIOUS", "SMTP_URL", "SENTRY_DSN", "METRICS_TOKEN", "AWS_SECRET_ACCESS_KEY"}

func TestAWSTasksAreHardened(t *testing.T) {
	tpl := loadTemplate(t, true)
	if tasks := slices.Sorted(maps.Keys(tpl.of("AWS::ECS::TaskDefinition"))); !slices.Equal(tasks, []string{"ApiTask", "MigrateTask", "WorkerTask"}) {
		t.Fatalf("tasks are %v", tasks)
	}
	for name, task := range tpl.of("AWS::ECS::TaskDefinition") {
		complain := func(format string, args ...any) { t.Helper(); t.Errorf(name+": "+format, args...) }
		c := tpl.container(t, name)
		if c["User"] != "10001:10001" || c["ReadonlyRootFilesystem"] != true || c["Privileged"] != nil {
			complain("user %v, read-only root %v, privileged %v", c["User"], c["ReadonlyRootFilesystem"], c["Privileged"])
		}
		if dropped := texts(at(c, "LinuxParameters", "Capabilities", "Drop")); !slices.Equal(dropped, []string{"ALL"}) || at(c, "LinuxParameters", "Capabilities", "Add") != nil {
			complain("it has capabilities: dropped are %v", dropped)
		}
		if stop, _ := c["StopTimeout"].(float64); stop < 30 || stop > 120 {
			complain("it has %v s to stop, want 30 to 120", stop)
		}
		if at(c, "LogConfiguration", "LogDriver") != "awslogs" || tpl.resources[fmt.Sprint(at(c, "LogConfiguration", "Options", "awslogs-group"))].Type != "AWS::Logs::LogGroup" {
			complain("its log goes to %v", c["LogConfiguration"])
		}
		if task.Properties["ExecutionRoleArn"] == task.Properties["TaskRoleArn"] {
			complain("the program has the rights of what starts it, which reads secrets")
		}
		for _, setting := range entries(c["Environment"]) {
			if slices.Contains(secretSettings, fmt.Sprint(setting["Name"])) || strings.Contains(fmt.Sprint(setting["Value"]), "{{resolve:") {
				complain("%s stands in it", setting["Name"])
			}
		}
		if name == "MigrateTask" {
			if at(c, "Command", 0) != "migrate" || task.Properties["TaskRoleArn"] != nil {
				complain("it runs %v with the role %v, want migrate with none", c["Command"], task.Properties["TaskRoleArn"])
			}
			continue
		}
		if check := texts(at(c, "HealthCheck", "Command")); !slices.Equal(check, []string{"CMD", "/taskflow", "healthcheck"}) {
			complain("its health check is %v", check)
		}
		if environment(c)["MIGRATE"] != "off" {
			complain("each process would migrate the database")
		}
		if environment(c)["ROLE"] != map[string]string{"ApiTask": "api", "WorkerTask": "worker"}[name] {
			complain("it is %s", environment(c)["ROLE"])
		}
	}
	balancer := texts([]any{environment(tpl.container(t, "ApiTask"))["TRUSTED_PROXIES"]})
	subnets := fmt.Sprint(at(tpl.resources["PublicSubnetA"].Properties, "CidrBlock")) + "," + fmt.Sprint(at(tpl.resources["PublicSubnetB"].Properties, "CidrBlock"))
	if balancer[0] != subnets {
		t.Errorf("the API believes %s, want the balancer's subnets %s", balancer[0], subnets)
	}
}

// environment is what a container is told openly.
func environment(container map[string]any) map[string]string {
	env := map[string]string{}
	for _, setting := range entries(container["Environment"]) {
		env[fmt.Sprint(setting["Name"])] = fmt.Sprint(setting["Value"])
	}
	return env
}

// TestTheProgramTakesWhatAWSSetsIt runs the program with the environment of each task, in which only the
// secrets are samples.
func TestTheProgramTakesWhatAWSSetsIt(t *testing.T) {
	known := append(settingNames(t), "GOMEMLIMIT", "PGPASSWORD") // the Go runtime's, and pgx's
	secrets := map[string]string{
		"PGPASSWORD": "p:a/s?s#w@rd", "REDIS_URL": "rediss://:0123456789abcdef@127.0.0.1:1/0", "SMTP_URL": "smtp://user:password@127.0.0.1:587",
		"JWT_SECRET": strings.Repeat("j", 64), "JWT_SECRET_PREVIOUS": strings.Repeat("p", 64),
	}
	program := filepath.Join(t.TempDir(), "taskflow")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, ".")
	build.Dir, build.Env = top, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for _, all := range []bool{true, false} {
		tpl := loadTemplate(t, all)
		for name := range tpl.of("AWS::ECS::TaskDefinition") {
			c := tpl.container(t, name)
			env := []string{"LISTEN_ADDR=127.0.0.1:0", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/1"} // ECS sets this
			for setting, value := range environment(c) {
				if !slices.Contains(known, setting) {
					t.Errorf("%s: %s is no setting", name, setting)
				}
				value = strings.NewReplacer("s3://Files", "s3://files", "Database.Endpoint.Address:5432", "127.0.0.1:1", "Assets.DomainName", "d1.cloudfront.net").Replace(value)
				env = append(env, setting+"="+value)
			}
			for _, s := range entries(c["Secrets"]) {
				setting := fmt.Sprint(s["Name"])
				if !slices.Contains(known, setting) || secrets[setting] == "" {
					t.Errorf("%s: %s is no setting that holds a secret", name, setting)
				}
				env = append(env, setting+"="+secrets[setting])
			}
			command := texts(c["Command"])
			if command == nil {
				command = []string{"serve"}
			}
			t.Run(fmt.Sprintf("%s %v", name, all), func(t *testing.T) { takes(t, program, env, command) })
		}
	}
}

func TestAWSRollsBackByAlarmsThatAreThere(t *testing.T) {
	tpl := loadTemplate(t, true)
	for name, strategy := range map[string]string{"ApiService": "BLUE_GREEN", "WorkerService": "ROLLING"} {
		how := at(tpl.resources[name].Properties, "DeploymentConfiguration")
		if at(how, "Strategy") != strategy {
			t.Errorf("%s is deployed by %v, want %s", name, at(how, "Strategy"), strategy)
		}
		for _, watch := range []string{"Alarms", "DeploymentCircuitBreaker"} {
			if at(how, watch, "Enable") != true || at(how, watch, "Rollback") != true {
				t.Errorf("%s: %s are %v, want them to roll back", name, watch, at(how, watch))
			}
		}
		alarms := texts(at(how, "Alarms", "AlarmNames"))
		if len(alarms) < 2 {
			t.Errorf("%s watches only %v", name, alarms)
		}
		for _, alarm := range alarms {
			if tpl.resources[alarm].Type != "AWS::CloudWatch::Alarm" {
				t.Errorf("%s watches %s, which is no alarm", name, alarm)
			}
		}
	}
	if at(tpl.resources["ApiService"].Properties, "DeploymentConfiguration", "BakeTimeInMinutes").(float64) < 5 {
		t.Error("the old version of the API is gone before an alarm could tell of the new one")
	}
	balancer := at(tpl.resources["ApiService"].Properties, "LoadBalancers", 0)
	blue, green := at(balancer, "TargetGroupArn"), at(balancer, "AdvancedConfiguration", "AlternateTargetGroupArn")
	for _, rule := range []string{"ProductionListenerRule", "TestListenerRule"} {
		name := fmt.Sprint(at(balancer, "AdvancedConfiguration", rule))
		targets := at(tpl.resources[name].Properties, "Actions", 0, "ForwardConfig", "TargetGroups")
		if at(targets, 0, "TargetGroupArn") != blue || at(targets, 1, "TargetGroupArn") != green || blue == green {
			t.Errorf("%s sends requests to %v, want both groups of the service", name, targets)
		}
	}
}

func TestAWSAlarmsTellSomebodyAndMeasureWhatThereIs(t *testing.T) {
	tpl := loadTemplate(t, true)
	emf := string(read(t, "emf.go"))
	metrics := 0
	own := func(where string, v any) { // a metric of the program's own
		if at(v, "Namespace") != "TaskFlow" {
			return
		}
		metrics++
		name, dimension := fmt.Sprint(at(v, "MetricName")), fmt.Sprint(at(v, "Dimensions", 0, "Name"))
		if !strings.Contains(emf, `{"`+name+`", "`) || !strings.Contains(emf, `tell("`+dimension+`", `) {
			t.Errorf("%s measures %s by %s, which emf.go does not write", where, name, dimension)
		}
	}
	for name, alarm := range tpl.of("AWS::CloudWatch::Alarm") {
		actions := texts(alarm.Properties["AlarmActions"])
		if len(actions) != 1 || !slices.Contains([]string{"AWS::SNS::Topic", "AWS::ApplicationAutoScaling::ScalingPolicy"}, tpl.resources[actions[0]].Type) {
			t.Errorf("%s tells %v", name, actions)
		}
		if alarm.Properties["AlarmDescription"] == nil {
			t.Errorf("%s does not say what is wrong", name)
		}
		own(name, alarm.Properties)
		for _, m := range entries(alarm.Properties["Metrics"]) {
			own(name, at(m, "MetricStat", "Metric"))
		}
	}
	if metrics < 4 {
		t.Errorf("alarms and scaling use %d metrics of the program, want 4 or more", metrics)
	}
	body := fmt.Sprint(tpl.resources["Dashboard"].Properties["DashboardBody"])
	dashboard, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
	if err != nil || len(entries(at(dashboard, "widgets"))) < 6 {
		t.Errorf("the dashboard is no JSON with six widgets: %v", err)
	}
	for _, widget := range entries(at(dashboard, "widgets")) {
		var namespace any
		rows, _ := at(widget, "properties", "metrics").([]any)
		for _, row := range rows {
			if first := at(row, 0); first != "." && first != "..." { // the same as in the row above
				namespace = first
			}
			if name := fmt.Sprint(at(row, 1)); namespace == "TaskFlow" && !strings.Contains(emf, `{"`+name+`", "`) {
				t.Errorf("the dashboard shows %s, which emf.go does not write", name)
			}
		}
	}
}

func TestAWSIsReachedThroughTheBalancerOnly(t *testing.T) {
	tpl := loadTemplate(t, true)
	open := map[string][]string{}
	rule := func(group string, v map[string]any) {
		if v["SourceSecurityGroupId"] != nil && v["CidrIp"] == nil && v["CidrIpv6"] == nil {
			return
		}
		open[group] = append(open[group], fmt.Sprintf("%v:%v-%v", v["CidrIp"], v["FromPort"], v["ToPort"]))
	}
	for name, r := range tpl.of("AWS::EC2::SecurityGroup") {
		for _, v := range entries(r.Properties["SecurityGroupIngress"]) {
			rule(name, v)
		}
		if len(entries(r.Properties["SecurityGroupEgress"])) == 0 {
			t.Errorf("%s reaches everything, as it names nothing", name)
		}
	}
	for _, r := range tpl.of("AWS::EC2::SecurityGroupIngress") {
		rule(strings.TrimSuffix(fmt.Sprint(r.Properties["GroupId"]), ".GroupId"), r.Properties)
	}
	want := []string{"0.0.0.0/0:443-443", "0.0.0.0/0:80-80"}
	if len(open) != 1 || !slices.Equal(open["BalancerGroup"], want) {
		t.Errorf("open to addresses are %v, want only the balancer's %v", open, want)
	}
	for name, r := range tpl.resources {
		switch r.Type {
		case "AWS::ECS::Service":
			network := at(r.Properties, "NetworkConfiguration", "AwsvpcConfiguration")
			if at(network, "AssignPublicIp") != "DISABLED" || !slices.Equal(texts(at(network, "Subnets")), []string{"PrivateSubnetA", "PrivateSubnetB"}) {
				t.Errorf("%s is in %v", name, network)
			}
		case "AWS::RDS::DBSubnetGroup", "AWS::ElastiCache::SubnetGroup":
			if subnets := texts(r.Properties["SubnetIds"]); !slices.Equal(subnets, []string{"PrivateSubnetA", "PrivateSubnetB"}) {
				t.Errorf("%s is %v", name, subnets)
			}
		}
	}
	// The network for static files fetches those and nothing else.
	first := at(tpl.resources["Assets"].Properties, "DistributionConfig", "DefaultCacheBehavior", "FunctionAssociations", 0)
	function, _, _ := strings.Cut(fmt.Sprint(at(first, "FunctionARN")), ".")
	code := fmt.Sprint(tpl.resources[function].Properties["FunctionCode"])
	if at(first, "EventType") != "viewer-request" || !strings.Contains(code, "uri.startsWith('/assets/') ? event.request : {statusCode: 404") || at(tpl.resources["Assets"].Properties, "DistributionConfig", "CacheBehaviors") != nil {
		t.Errorf("CloudFront fetches more than static files: %s", code)
	}
	if !strings.Contains(string(read(t, "routes.go")), `"GET /assets/{version}/`) || environment(tpl.container(t, "ApiTask"))["ASSET_BASE_URL"] != "https://Assets.DomainName" {
		t.Error("pages do not load what CloudFront has")
	}
	redirect := at(tpl.resources["HttpListener"].Properties, "DefaultActions", 0)
	if at(redirect, "Type") != "redirect" || at(redirect, "RedirectConfig", "Protocol") != "HTTPS" {
		t.Errorf("plain HTTP is answered by %v", redirect)
	}
}

func TestAWSStoresKeepWhatTheyHave(t *testing.T) {
	tpl := loadTemplate(t, false) // not from a snapshot, which is encrypted as what it was taken of
	for name, want := range map[string]map[string]any{
		"Database": {"MultiAZ": true, "StorageEncrypted": true, "DeletionProtection": true, "ManageMasterUserPassword": true, "PubliclyAccessible": false},
		"Redis":    {"MultiAZEnabled": true, "AutomaticFailoverEnabled": true, "AtRestEncryptionEnabled": true, "TransitEncryptionEnabled": true, "TransitEncryptionMode": "required"},
	} {
		r := tpl.resources[name]
		for property, value := range want {
			if r.Properties[property] != value {
				t.Errorf("%s: %s is %v, want %v", name, property, r.Properties[property], value)
			}
		}
		if r.whole["DeletionPolicy"] != "Snapshot" || r.whole["UpdateReplacePolicy"] != "Snapshot" {
			t.Errorf("%s is lost with the stack", name)
		}
	}
	if days, _ := tpl.resources["Database"].Properties["BackupRetentionPeriod"].(float64); days < 7 {
		t.Errorf("backups of the database are kept %v days", days)
	}
	if policy := at(tpl.resources["RedisParameters"].Properties, "Properties", "maxmemory-policy"); policy != "noeviction" {
		t.Errorf("Redis has maxmemory-policy %v", policy)
	}
	files := tpl.resources["Files"]
	for _, closed := range []string{"BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"} {
		if at(files.Properties, "PublicAccessBlockConfiguration", closed) != true {
			t.Errorf("the bucket's %s is off", closed)
		}
	}
	if files.whole["DeletionPolicy"] != "Retain" || at(files.Properties, "BucketEncryption") == nil || at(files.Properties, "VersioningConfiguration", "Status") != "Enabled" {
		t.Error("files are not kept, encrypted and in versions")
	}
	for name, log := range tpl.of("AWS::Logs::LogGroup") {
		if log.Properties["RetentionInDays"] == nil {
			t.Errorf("%s grows for ever", name)
		}
	}
	// Both versions of the API run at once while one replaces the other, and workers too.
	task := environment(tpl.container(t, "ApiTask"))
	each, _ := strconv.Atoi(task["DATABASE_MAX_CONNS"])
	most := 2 * each * int(tpl.ref("ApiMax").(float64)+tpl.ref("WorkerMax").(float64))
	if limit := at(tpl.resources["DatabaseConnectionsAlarm"].Properties, "Threshold").(float64); float64(most) > limit {
		t.Errorf("processes may open %d connections, more than the %v that are an alarm", most, limit)
	}
}

func TestAWSRightsAreFewAndNamed(t *testing.T) {
	tpl := loadTemplate(t, true)
	for name, role := range tpl.of("AWS::IAM::Role") {
		for _, policy := range entries(role.Properties["Policies"]) {
			for _, s := range entries(at(policy, "PolicyDocument", "Statement")) {
				for _, action := range texts(s["Action"]) {
					for _, resource := range texts(s["Resource"]) {
						if strings.Contains(action, "*") || resource == "*" && action != "ecr:GetAuthorizationToken" || strings.HasPrefix(resource, "arn:aws:s3:::*") {
							t.Errorf("%s may %s on %s", name, action, resource)
						}
					}
				}
			}
		}
	}
	// What starts tasks reads the secrets that they are given, and no other.
	given, readable := map[string]bool{}, map[string]bool{}
	for name := range tpl.of("AWS::ECS::TaskDefinition") {
		for _, s := range entries(tpl.container(t, name)["Secrets"]) {
			given[regexp.MustCompile(`:(password)?:(AWSPREVIOUS)?:$`).ReplaceAllString(fmt.Sprint(s["ValueFrom"]), "")] = true
		}
	}
	for _, s := range entries(at(tpl.resources["StartRole"].Properties, "Policies", 0, "PolicyDocument", "Statement")) {
		if s["Action"] == "secretsmanager:GetSecretValue" {
			for _, secret := range texts(s["Resource"]) {
				readable[secret] = true
			}
		}
	}
	if !maps.Equal(given, readable) {
		t.Errorf("tasks are given the secrets %v, and what starts them reads %v", given, readable)
	}
	known := settingNames(t)
	for _, setting := range secretSettings {
		if setting != "PGPASSWORD" && !slices.Contains(known, setting) {
			t.Errorf("%s is no setting", setting)
		}
	}
}
