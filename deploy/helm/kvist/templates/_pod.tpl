{{/* The pod of a node, the same in a StatefulSet and a DaemonSet but for its names. */}}
{{- define "kvist.pod" -}}
metadata:
  labels:
    {{- include "kvist.podLabels" (list . "node") | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: kvistd
    {{- if include "kvist.alone" . }}
    checksum/config: {{ include "kvist.clusterFile" . | sha256sum }}
    {{- end }}
    {{- with merge (dict) .Values.podAnnotations .Values.commonAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "kvist.serviceAccountName" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  terminationGracePeriodSeconds: {{ include "kvist.graceSeconds" . }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- if and .Values.gpu.enabled .Values.gpu.socket.enabled }}
  hostIPC: true
  {{- if .Values.gpu.socket.hostPID }}
  hostPID: true
  {{- end }}
  {{- end }}
  {{- if and .Values.gpu.enabled .Values.gpu.runtimeClassName }}
  runtimeClassName: {{ .Values.gpu.runtimeClassName }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- include "kvist.topologySpread" . | trim | nindent 2 }}
  {{- with .Values.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    {{- include "kvist.container" . | nindent 4 }}
    {{- with .Values.sidecars }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with include "kvist.volumes" . | trim }}
  volumes:
    {{- . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "kvist.container" -}}
- name: kvistd
  image: {{ include "kvist.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [kvistd]
  args:
    {{- include "kvist.args" . | trim | nindent 4 }}
  env:
    {{- include "kvist.env" . | trim | nindent 4 }}
  {{- with .Values.extraEnvFrom }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - name: data
      containerPort: {{ int .Values.ports.data }}
    - name: http
      containerPort: {{ int .Values.ports.http }}
  {{- include "kvist.probes" . | trim | nindent 2 }}
  resources:
    {{- include "kvist.resources" . | trim | nindent 4 }}
  securityContext:
    {{- $context := .Values.securityContext }}
    {{- if and .Values.gpu.enabled .Values.gpu.socket.enabled .Values.gpu.socket.privileged }}
    {{- /* Kubernetes refuses a privileged container that may not gain privileges. */}}
    {{- $context = merge (dict "privileged" true "allowPrivilegeEscalation" true) $context }}
    {{- end }}
    {{- toYaml $context | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  {{- with include "kvist.volumeMounts" . | trim }}
  volumeMounts:
    {{- . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* A DaemonSet's pod has no name in DNS, and a new name each time: its node goes by the machine's name and the pod's address. */}}
{{- define "kvist.args" -}}
{{- $data := int .Values.ports.data }}
{{- if eq .Values.mode "daemonset" }}
- --node=$(NODE_NAME)
- --advertise=$(POD_IP):{{ $data }}
{{- else }}
- --node=$(POD_NAME)
- --advertise=$(POD_NAME).{{ include "kvist.headless" . }}.{{ include "kvist.domain" . }}:{{ $data }}
{{- end }}
- --listen=0.0.0.0:{{ $data }}
{{- if .Values.tls.enabled }}
{{- include "kvist.tlsArgs" . }}
- --tls-refresh={{ .Values.tls.refresh }}
{{- else }}
{{- /* Plaintext, kept to chosen pods by the NetworkPolicy. */}}
- --insecure
{{- end }}
{{- include "kvist.accessArgs" . }}
- --http=0.0.0.0:{{ int .Values.ports.http }}
- --capacity={{ .Values.capacity }}
{{- if not .Values.prefault }}
- --no-prefault
{{- end }}
- --drain-deadline={{ .Values.drain.deadline }}
- --drain={{ .Values.drain.calls }}
{{- with .Values.drain.budget }}
- --drain-budget={{ . }}
{{- end }}
- --join-ramp={{ .Values.join.ramp }}
- --join-window={{ .Values.join.window }}
- --log-level={{ .Values.logLevel }}
{{- if .Values.debugPages }}
- --debug-pages
{{- end }}
{{- range $name, $value := .Values.tuning }}
{{- if ne (include "kvist.text" $value) "" }}
- --{{ kebabcase $name }}={{ include "kvist.text" $value }}
{{- end }}
{{- end }}
{{- if .Values.profiles.volume }}
- --profiles=/var/lib/kvist-profiles
{{- end }}
{{- with include "kvist.etcdEndpoints" . }}
- --etcd={{ . }}
- --cluster-name={{ $.Values.etcd.clusterName | default (printf "%s.%s" $.Release.Namespace (include "kvist.fullname" $)) }}
{{- end }}
{{- if include "kvist.alone" . }}
- --cluster=/var/lib/kvist/cluster.json
{{- end }}
{{- with .Values.etcd.auth.user }}
- --etcd-user={{ . }}
- --etcd-password-file=/etc/kvist/etcd-auth/{{ $.Values.etcd.auth.passwordKey }}
{{- end }}
{{- if .Values.etcd.tls.existingSecret }}
- --etcd-ca=/etc/kvist/etcd-tls/ca.crt
{{- if .Values.etcd.tls.clientCertificate }}
- --etcd-cert=/etc/kvist/etcd-tls/tls.crt
- --etcd-key=/etc/kvist/etcd-tls/tls.key
{{- end }}
{{- end }}
{{- include "kvist.deviceArgs" . }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "kvist.deviceArgs" -}}
{{- with .Values.gpu }}{{ if .enabled }}
- --device-capacity={{ .capacity }}
- --device={{ int .ordinal }}
- --device-staging={{ .staging }}
{{- if .socket.enabled }}
{{- /* Workers of a DaemonSet's machine find one name; pods of a StatefulSet may share a machine. */}}
- --device-socket={{ .socket.hostPath }}/{{ ternary "kvist" "$(POD_NAME)" (eq $.Values.mode "daemonset") }}.sock
{{- end }}
{{- with .nccl }}
- --nccl={{ . }}
{{- end }}
{{- end }}{{ end }}
{{- end -}}

{{- define "kvist.env" -}}
{{- $fields := dict "POD_NAME" "metadata.name" }}
{{- if eq .Values.mode "daemonset" }}
{{- $fields = dict "NODE_NAME" "spec.nodeName" "POD_IP" "status.podIP" }}
{{- end }}
{{- range $name, $path := $fields }}
- name: {{ $name }}
  valueFrom:
    fieldRef:
      fieldPath: {{ $path }}
{{- end }}
{{- if and .Values.gpu.enabled (not .Values.gpu.claim) }}
- name: NVIDIA_VISIBLE_DEVICES
  value: {{ .Values.gpu.visibleDevices | quote }}
- name: NVIDIA_DRIVER_CAPABILITIES
  value: compute,utility
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The HTTP port opens when the tiers are taken, so the startup probe waits for that. */}}
{{- define "kvist.probes" -}}
{{- $gib := divf (include "kvist.bytes" .Values.capacity | float64) 1073741824.0 }}
{{- $seconds := addf 60 (mulf $gib .Values.probes.startupSecondsPerGiB) | ceil | int64 }}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 2
  timeoutSeconds: 3
  failureThreshold: {{ div (add $seconds 1) 2 }}
livenessProbe:
  httpGet: {path: /healthz, port: http}
  {{- toYaml .Values.probes.liveness | nindent 2 }}
readinessProbe:
  httpGet: {path: /readyz, port: http}
  {{- toYaml .Values.probes.readiness | nindent 2 }}
{{- end -}}

{{- define "kvist.resources" -}}
{{- $memory := printf "%sMi" (include "kvist.mebibytes" (include "kvist.memoryBytes" .)) }}
{{- $memory = get (.Values.resources.limits | default dict) "memory" | default $memory }}
{{- $limits := merge (dict "memory" $memory) (.Values.resources.limits | default dict) }}
{{- if and .Values.gpu.enabled .Values.gpu.claim }}
{{- $limits = merge (dict .Values.gpu.resource 1) $limits }}
{{- end }}
requests:
  {{- toYaml (merge (dict "memory" $memory) (.Values.resources.requests | default dict)) | nindent 2 }}
limits:
  {{- toYaml $limits | nindent 2 }}
{{- end -}}

{{- define "kvist.volumes" -}}
{{- include "kvist.tlsVolume" . }}
{{- include "kvist.accessVolumes" . }}
{{- if include "kvist.alone" . }}
- name: members
  configMap: {name: {{ include "kvist.fullname" . }}-members}
- name: claims
  emptyDir: {sizeLimit: 1Mi}
{{- end }}
{{- if .Values.etcd.auth.user }}
- name: etcd-auth
  secret: {secretName: {{ .Values.etcd.auth.existingSecret }}, defaultMode: 0440}
{{- end }}
{{- if .Values.etcd.tls.existingSecret }}
- name: etcd-tls
  secret: {secretName: {{ .Values.etcd.tls.existingSecret }}, defaultMode: 0440}
{{- end }}
{{- with .Values.profiles.volume }}
- name: profiles
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if ne (include "kvist.shmBytes" .) "0" }}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ include "kvist.mebibytes" (include "kvist.shmBytes" .) }}Mi}
{{- end }}
{{- if and .Values.gpu.enabled .Values.gpu.socket.enabled }}
- name: device-socket
  hostPath: {path: {{ .Values.gpu.socket.hostPath }}, type: Directory}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "kvist.volumeMounts" -}}
{{- include "kvist.tlsMount" . }}
{{- include "kvist.accessMounts" . }}
{{- if include "kvist.alone" . }}
{{- /* A node writes its claim beside the file, so the file is mounted into a folder that it may write. */}}
- {name: claims, mountPath: /var/lib/kvist}
- {name: members, mountPath: /var/lib/kvist/cluster.json, subPath: cluster.json, readOnly: true}
{{- end }}
{{- if .Values.etcd.auth.user }}
- {name: etcd-auth, mountPath: /etc/kvist/etcd-auth, readOnly: true}
{{- end }}
{{- if .Values.etcd.tls.existingSecret }}
- {name: etcd-tls, mountPath: /etc/kvist/etcd-tls, readOnly: true}
{{- end }}
{{- if .Values.profiles.volume }}
- {name: profiles, mountPath: /var/lib/kvist-profiles}
{{- end }}
{{- if ne (include "kvist.shmBytes" .) "0" }}
- {name: shm, mountPath: /dev/shm}
{{- end }}
{{- if and .Values.gpu.enabled .Values.gpu.socket.enabled }}
- {name: device-socket, mountPath: {{ .Values.gpu.socket.hostPath }}}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "kvist.topologySpread" -}}
{{- if eq .Values.mode "statefulset" }}
{{- $keys := dict "kubernetes.io/hostname" .Values.topologySpread.hosts "topology.kubernetes.io/zone" .Values.topologySpread.zones }}
{{- if or .Values.topologySpread.hosts .Values.topologySpread.zones }}
topologySpreadConstraints:
  {{- range $key, $act := $keys }}{{ if $act }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    whenUnsatisfiable: {{ $act }}
    nodeTaintsPolicy: Honor
    labelSelector:
      matchLabels:
        {{- include "kvist.selector" (list $ "node") | nindent 8 }}
    matchLabelKeys: [controller-revision-hash]
  {{- end }}{{ end }}
{{- end }}
{{- end }}
{{- end -}}
