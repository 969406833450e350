"""Every number that IANA or the RFCs assigned, named as they name it. The RFC of each stands behind it."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Protocol(IntEnum):
    """Next Header values (IANA protocol numbers)."""

    HOP_BY_HOP = 0
    ICMP = 1
    IPV4 = 4
    TCP = 6
    UDP = 17
    DCCP = 33
    IPV6 = 41
    ROUTING = 43
    FRAGMENT = 44
    GRE = 47
    ESP = 50
    AH = 51
    ICMPV6 = 58
    NO_NEXT_HEADER = 59
    DESTINATION_OPTIONS = 60
    SCTP = 132
    MOBILITY = 135  # RFC 6275 §6.1


HOME_ADDRESS_OPTION = 0xC9  # destination option, RFC 6275 §6.3
ROUTING_TYPE_2 = 2  # RFC 6275 §6.4
DSMIPV6_PORT = 4191  # RFC 5555 §8


class MessageType(IntEnum):
    """Mobility Header types."""

    BINDING_REFRESH_REQUEST = 0  # RFC 6275
    HOME_TEST_INIT = 1
    CARE_OF_TEST_INIT = 2
    HOME_TEST = 3
    CARE_OF_TEST = 4
    BINDING_UPDATE = 5
    BINDING_ACKNOWLEDGEMENT = 6
    BINDING_ERROR = 7
    FAST_BINDING_UPDATE = 8  # RFC 5568
    FAST_BINDING_ACKNOWLEDGEMENT = 9  # RFC 5568
    FAST_NEIGHBOR_ADVERTISEMENT = 10  # RFC 5268
    EXPERIMENTAL = 11  # RFC 5096
    HOME_AGENT_SWITCH = 12  # RFC 5142
    HEARTBEAT = 13  # RFC 5847
    HANDOVER_INITIATE = 14  # RFC 5568
    HANDOVER_ACKNOWLEDGE = 15  # RFC 5568
    BINDING_REVOCATION = 16  # RFC 5846
    LOCALIZED_ROUTING_INITIATION = 17  # RFC 6705
    LOCALIZED_ROUTING_ACKNOWLEDGEMENT = 18  # RFC 6705
    UPDATE_NOTIFICATION = 19  # RFC 7077
    UPDATE_NOTIFICATION_ACKNOWLEDGEMENT = 20  # RFC 7077
    FLOW_BINDING = 21  # RFC 7109
    SUBSCRIPTION_QUERY = 22  # RFC 7161
    SUBSCRIPTION_RESPONSE = 23  # RFC 7161


class OptionType(IntEnum):
    """Mobility option types. RFC 6089 §8 swaps 44 and 45; its §4.2 and IANA agree on these."""

    PAD1 = 0  # RFC 6275
    PADN = 1
    BINDING_REFRESH_ADVICE = 2
    ALTERNATE_CARE_OF_ADDRESS = 3
    NONCE_INDICES = 4
    BINDING_AUTHORIZATION_DATA = 5
    MOBILE_NETWORK_PREFIX = 6  # RFC 3963
    LINK_LAYER_ADDRESS = 7  # RFC 5568
    MOBILE_NODE_IDENTIFIER = 8  # RFC 4283
    AUTHENTICATION = 9  # RFC 4285
    MESSAGE_IDENTIFICATION = 10  # RFC 4285
    EXPERIMENTAL = 18  # RFC 5096
    VENDOR_SPECIFIC = 19  # RFC 5094
    SERVICE_SELECTION = 20  # RFC 5149
    RESTART_COUNTER = 28  # RFC 5847
    IPV4_HOME_ADDRESS = 29  # RFC 5555
    IPV4_ADDRESS_ACKNOWLEDGEMENT = 30  # RFC 5555 §3.2.1
    NAT_DETECTION = 31  # RFC 5555
    IPV4_CARE_OF_ADDRESS = 32  # RFC 5555
    BINDING_IDENTIFIER = 35  # RFC 5648, 6089
    FLOW_SUMMARY = 44  # RFC 6089 §4.2.2
    FLOW_IDENTIFICATION = 45  # RFC 6089 §4.2


class SubOptionType(IntEnum):
    """Sub-options of the Flow Identification option."""

    PAD1 = 0  # RFC 6089 §4.2.1.1
    PADN = 1
    BINDING_REFERENCE = 2  # RFC 6089 §4.2.1.3
    TRAFFIC_SELECTOR = 3  # RFC 6089 §4.2.1.4
    FLOW_BINDING_ACTION = 4  # RFC 7109
    TARGET_CARE_OF_ADDRESS = 5  # RFC 7109


class SelectorFormat(IntEnum):
    """TS format of a traffic selector (RFC 6088 §3)."""

    IPV4 = 1
    IPV6 = 2


class UpdateFlag(IntFlag):
    """Flags of a Binding Update. OVERWRITE is O of RFC 5648 §4.2 when P=0, B of RFC 6602 when P=1."""

    ACKNOWLEDGE = 0x8000  # RFC 6275
    HOME_REGISTRATION = 0x4000
    LINK_LOCAL = 0x2000
    KEY_MANAGEMENT = 0x1000
    MAP = 0x0800  # RFC 5380
    MOBILE_ROUTER = 0x0400  # RFC 3963
    PROXY = 0x0200  # RFC 5213
    FORCE_UDP = 0x0100  # RFC 5555
    TLV_HEADER = 0x0080  # RFC 5845
    OVERWRITE = 0x0040  # RFC 5648
    SUBSCRIPTION = 0x0020  # RFC 7161
    DISTRIBUTED = 0x0010  # RFC 8885


class AckFlag(IntFlag):
    """Flags of a Binding Acknowledgement."""

    KEY_MANAGEMENT = 0x80  # RFC 6275
    MOBILE_ROUTER = 0x40  # RFC 3963
    PROXY = 0x20  # RFC 5213
    TLV_HEADER = 0x10  # RFC 5845
    BULK = 0x08  # RFC 6602
    SUBSCRIPTION = 0x04  # RFC 7161
    DISTRIBUTED = 0x02  # RFC 8885


class HeartbeatFlag(IntFlag):
    """Flags of a Heartbeat (RFC 5847 §3.3)."""

    UNSOLICITED = 0x0002
    RESPONSE = 0x0001


class RevocationFlag(IntFlag):
    """Flags of Binding Revocation messages (RFC 5846 §5)."""

    PROXY = 0x8000
    IPV4 = 0x4000
    GLOBAL = 0x2000


class BindingStatus(IntEnum):
    """Status of a Binding Acknowledgement and of a BID option. Below 128: accepted."""

    ACCEPTED = 0  # RFC 6275
    PREFIX_DISCOVERY_NECESSARY = 1
    MCOA_NOTCOMPLETE = 4  # RFC 5648
    MCOA_RETURNHOME_WO_NDP = 5  # RFC 5648
    REASON_UNSPECIFIED = 128  # RFC 6275
    ADMINISTRATIVELY_PROHIBITED = 129
    INSUFFICIENT_RESOURCES = 130
    HOME_REGISTRATION_NOT_SUPPORTED = 131
    NOT_HOME_SUBNET = 132
    NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE = 133
    DUPLICATE_ADDRESS_DETECTION_FAILED = 134
    SEQUENCE_NUMBER_OUT_OF_WINDOW = 135
    EXPIRED_HOME_NONCE_INDEX = 136
    EXPIRED_CARE_OF_NONCE_INDEX = 137
    EXPIRED_NONCES = 138
    REGISTRATION_TYPE_CHANGE_DISALLOWED = 139
    MOBILE_ROUTER_OPERATION_NOT_PERMITTED = 140  # RFC 3963
    INVALID_PREFIX = 141  # RFC 3963
    NOT_AUTHORIZED_FOR_PREFIX = 142  # RFC 3963
    FORWARDING_SETUP_FAILED = 143  # RFC 3963
    MIPV6_ID_MISMATCH = 144  # RFC 4285
    MIPV6_MESG_ID_REQD = 145  # RFC 4285
    MIPV6_AUTH_FAIL = 146  # RFC 4285
    SERVICE_AUTHORIZATION_FAILED = 151  # RFC 5149
    MCOA_MALFORMED = 164  # RFC 5648
    MCOA_NON_MCOA_BINDING_EXISTS = 165
    MCOA_PROHIBITED = 166
    MCOA_UNKNOWN_COA = 167
    MCOA_BULK_REGISTRATION_PROHIBITED = 168
    MCOA_SIMULTANEOUS_HOME_AND_FOREIGN_PROHIBITED = 169
    INVALID_CARE_OF_ADDRESS = 174  # RFC 6275
    REINIT_SA_WITH_HAC = 176  # RFC 6618


class FlowStatus(IntEnum):
    """Status of a Flow Identification option (RFC 6089 §4.2)."""

    SUCCESS = 0
    ADMINISTRATIVELY_PROHIBITED = 128
    REJECTED = 129
    MALFORMED = 130
    BID_NOT_FOUND = 131
    FID_NOT_FOUND = 132
    SELECTOR_FORMAT_NOT_SUPPORTED = 133


class ErrorStatus(IntEnum):
    """Status of a Binding Error (RFC 6275 §6.1.9)."""

    UNKNOWN_BINDING = 1
    UNRECOGNIZED_MESSAGE = 2


class IdentifierSubtype(IntEnum):
    """Subtype of the Mobile Node Identifier option (RFC 4283 §3)."""

    NAI = 1
    IPV6_ADDRESS = 2
    IMSI = 3
    P_TMSI = 4
    EUI_48 = 5
    EUI_64 = 6
    GUTI = 7
    DUID = 8


class AuthenticationSubtype(IntEnum):
    """Subtype of the Mobility Message Authentication option (RFC 4285 §5)."""

    MN_HA = 1
    MN_AAA = 2


class IPv4Status(IntEnum):
    """Status of the IPv4 Address Acknowledgement option (RFC 5555 §3.2.1)."""

    SUCCESS = 0
    UNSPECIFIED = 128
    ADMINISTRATIVELY_PROHIBITED = 129
    INCORRECT_HOME_ADDRESS = 130
    INVALID_ADDRESS = 131
    DYNAMIC_ASSIGNMENT_UNAVAILABLE = 132
    PREFIX_UNAUTHORIZED = 133


class RevocationType(IntEnum):
    """Which Binding Revocation message (RFC 5846 §5)."""

    INDICATION = 1
    ACKNOWLEDGEMENT = 2


class RevocationTrigger(IntEnum):
    """Why a binding is revoked (RFC 5846 §5.1)."""

    UNSPECIFIED = 0
    ADMINISTRATIVE = 1
    INTER_MAG_SAME_ACCESS = 2
    INTER_MAG_OTHER_ACCESS = 3
    INTER_MAG_UNKNOWN = 4
    USER_TERMINATION = 5
    ACCESS_NETWORK_TERMINATION = 6
    OUT_OF_SYNC = 7
    PER_PEER_POLICY = 128
    REVOKING_NODE_POLICY = 129


class RevocationStatus(IntEnum):
    """Status of a Binding Revocation Acknowledgement (RFC 5846 §5.2)."""

    SUCCESS = 0
    PARTIAL_SUCCESS = 1
    BINDING_DOES_NOT_EXIST = 128
    IPV4_OPTION_REQUIRED = 129
    GLOBAL_NOT_AUTHORIZED = 130
    IDENTITY_REQUIRED = 131
    MOBILE_NODE_ATTACHED = 132
    TRIGGER_NOT_SUPPORTED = 133
    FUNCTION_NOT_SUPPORTED = 134
    PROXY_NOT_SUPPORTED = 135


class FlowBindingType(IntEnum):
    """Which Flow Binding message (RFC 7109 §4)."""

    INDICATION = 1
    ACKNOWLEDGEMENT = 2


class FlowBindingTrigger(IntEnum):
    """Why a flow binding is changed by the home agent (RFC 7109 §4.1)."""

    UNSPECIFIED = 1
    ADMINISTRATIVE = 2
    OUT_OF_SYNC = 3


class FlowBindingStatus(IntEnum):
    """Status of a Flow Binding Acknowledgement (RFC 7109 §4.2)."""

    SUCCESS = 0
    TARGET_BINDING_DOES_NOT_EXIST = 128
    ACTION_NOT_AUTHORIZED = 129


class FlowAction(IntEnum):
    """Flow binding actions (RFC 7109 §5.1)."""

    ADD = 11
    DELETE = 12
    MODIFY = 13
    REFRESH = 14
    MOVE = 15
    REVOKE = 16


class IcmpType(IntEnum):
    """ICMP types of IPv4 (RFC 792)."""

    ECHO_REPLY = 0
    DESTINATION_UNREACHABLE = 3
    SOURCE_QUENCH = 4
    REDIRECT = 5
    ECHO_REQUEST = 8
    TIME_EXCEEDED = 11
    PARAMETER_PROBLEM = 12


class NeighbourOptionType(IntEnum):
    """Neighbour discovery options (RFC 4861 §4.6, RFC 6275 §7.3, §7.4)."""

    PREFIX_INFORMATION = 3
    ADVERTISEMENT_INTERVAL = 7
    HOME_AGENT_INFORMATION = 8


class Icmp6Type(IntEnum):
    """ICMPv6 types (RFC 4443, 4861, 6275 §6.5-6.8)."""

    DESTINATION_UNREACHABLE = 1
    PACKET_TOO_BIG = 2
    TIME_EXCEEDED = 3
    PARAMETER_PROBLEM = 4
    ECHO_REQUEST = 128
    ECHO_REPLY = 129
    ROUTER_SOLICITATION = 133
    ROUTER_ADVERTISEMENT = 134
    NEIGHBOR_SOLICITATION = 135
    NEIGHBOR_ADVERTISEMENT = 136
    REDIRECT = 137
    HOME_AGENT_DISCOVERY_REQUEST = 144
    HOME_AGENT_DISCOVERY_REPLY = 145
    MOBILE_PREFIX_SOLICITATION = 146
    MOBILE_PREFIX_ADVERTISEMENT = 147
